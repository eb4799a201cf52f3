"""etlt-probe: the kernel's witness. Counts what an epoll server does, without asking the server."""
