//! `netstat`: sockets, neighbours and addresses of this host.

pub mod address;
pub mod netlink;
pub mod proc_net;
pub mod rtnetlink;
pub mod sock_diag;
pub mod socket;
