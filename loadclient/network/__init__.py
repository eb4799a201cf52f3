"""A network between client and daemon, on one machine: two namespaces and what is between them."""
