"""The bus between instances: what one's clients say reaches the clients of all.

Imported only with ``--bus``. `envelope`, `sequence`, `buffer` and `backoff` are sans-IO; `bridge`
is the loop's side, `link` a thread that speaks NATS; they meet at two bounded buffers and two
eventfds.

NATS delivers at most once, and we add nothing to that but knowledge: every instance numbers its
messages, so whatever is lost on the way, wherever that is, shows as a gap in the numbers at the
receiver, is counted there once and announced to each client.
"""
