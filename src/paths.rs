//! Where the agent's socket is when nobody says.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use vigie_actors::control_protocol::SOCKET_NAME;

/// The socket to use: the one named, or the one in the directory named, or the one in the default directory.
pub(crate) fn socket(socket: Option<&Path>, run_dir: Option<&Path>) -> PathBuf {
    match (socket, run_dir) {
        (Some(socket), _) => socket.to_owned(),
        (None, Some(run_dir)) => run_dir.join(SOCKET_NAME),
        (None, None) => {
            default_run_dir(nix::unistd::geteuid().is_root(), |name| std::env::var_os(name)).join(SOCKET_NAME)
        }
    }
}

/// The run directory of an agent that is configured with nothing.
fn default_run_dir(root: bool, variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let directory =
        |name: &str| variable(name).map(PathBuf::from).filter(|directory| directory.is_absolute());
    if root {
        return PathBuf::from("/run/vigie");
    }
    directory("XDG_RUNTIME_DIR")
        .map(|runtime| runtime.join("vigie"))
        .or_else(|| directory("XDG_STATE_HOME").map(|state| state.join("vigie/run")))
        .or_else(|| directory("HOME").map(|home| home.join(".local/state/vigie/run")))
        .unwrap_or_else(|| PathBuf::from("/run/vigie"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default_for(root: bool, variables: &[(&str, &str)]) -> PathBuf {
        default_run_dir(root, |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn root_has_the_system_s_directory_and_others_have_their_own() {
        let variables = [("XDG_RUNTIME_DIR", "/run/user/7"), ("HOME", "/home/a")];

        assert_eq!(default_for(true, &variables), Path::new("/run/vigie"));
        assert_eq!(default_for(false, &variables), Path::new("/run/user/7/vigie"));
        assert_eq!(default_for(false, &variables[1..]), Path::new("/home/a/.local/state/vigie/run"));
    }

    #[test]
    fn what_is_named_wins() {
        assert_eq!(socket(Some(Path::new("a.sock")), Some(Path::new("/b"))), Path::new("a.sock"));
        assert_eq!(socket(None, Some(Path::new("/b"))), Path::new("/b/agent.sock"));
    }
}
