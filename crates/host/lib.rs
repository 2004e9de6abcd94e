//! What this host is: distribution, architecture, addresses, mounts, users. Each is read in one place.
//!
//! Only files and the kernel are asked, nobody on the network.

pub mod environment;
pub mod mounts;
pub mod os_release;
pub mod users;

mod addresses;
mod architecture;
mod capabilities;
mod range;
mod shown;
mod size;

pub use addresses::addresses;
pub use architecture::architecture;
pub use capabilities::{CAPABILITIES, tracing_hint};
pub use range::{AddressError, AddressRange};
pub use shown::{meant, shown};
pub use size::{parse_size, show_size};
