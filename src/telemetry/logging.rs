//! The process's own log: for a person on a terminal, for a machine in a pipe.
