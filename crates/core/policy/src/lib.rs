//! Authorisation, admission and quota decisions, free of I/O.
