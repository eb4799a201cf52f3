"""The boards, one module each; `board()` returns the SDK's builder."""
