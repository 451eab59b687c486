"""A disk for programs that speak NBD, the network block device protocol. `hwloop serve nbd` is the command."""
