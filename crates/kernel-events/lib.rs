//! What runs and what connects, as the kernel tells it: programs with their arguments, users, namespaces and parents at
//! the moment of the exec, ends of processes, and TCP sockets.
//!
//! ```text
//!  bpf/events.bpf.c ─ ring ─► bpf.rs ─► record.rs ─┐
//!  connector.rs ◄─ netlink, proc.rs ◄─ /proc ──────┴─► Source ─► Event
//! ```
//!
//! [`Source::open`] takes BPF where it can be loaded, otherwise the process connector, and says which and why. What is
//! lost is counted by kind and by whose it was ([`Source::counters`]): in the ring, where nobody can take the room of
//! the trusted ([`Account`]), in the kernel's own recursion counters, in a full socket.
//!
//! ```no_run
//! use std::time::Duration;
//! use vigie_kernel_events::{Event, Options, Source};
//!
//! let mut source = Source::open(&Options::default()).expect("this is root");
//! loop {
//!     let told = source.wait(Duration::from_millis(100), |event| {
//!         if let Event::Exec(exec) = event {
//!             println!("{} runs {:?}", exec.who.pid, String::from_utf8_lossy(&exec.path));
//!         }
//!     });
//!     if told.is_err() {
//!         break;
//!     }
//! }
//! ```

mod account;
#[cfg(bpf_program)]
mod bpf;
mod connector;
mod counters;
mod event;
pub mod proc;
#[cfg_attr(not(bpf_program), expect(dead_code, reason = "only the programs write records"))]
mod record;
mod source;

/// The BPF programs that the kernel has loaded, by their numbers: name, kind and who loaded them. Nothing when it does
/// not list them to us, or BPF is not part of this build.
#[must_use]
pub fn bpf_programs() -> Option<std::collections::BTreeMap<u32, String>> {
    #[cfg(bpf_program)]
    return bpf::programs();
    #[cfg(not(bpf_program))]
    None
}

pub use account::Account;
pub use counters::{Counters, Kind, Whose};
pub use event::{
    DESCRIPTORS, Descriptor, Event, Exec, Exit, ExitStatus, File, Identity, Listed, Namespaces, Net, NetState,
};
pub use source::{Options, Source, SourceError, SourceKind};
