//! `netstat`: sockets, neighbours and addresses of this host.

pub mod address;
