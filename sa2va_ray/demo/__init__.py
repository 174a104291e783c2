"""The whole system on one machine: the processes that `make demo` and the tests stand on."""
