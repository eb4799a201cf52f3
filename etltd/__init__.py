"""etltd: a newline-framed broadcast chat daemon on one epoll loop."""
