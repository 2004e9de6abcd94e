//! Where the agent's socket is when nobody says.

use std::path::{Path, PathBuf};

use vigie_config::files::Places;
use vigie_protocol::control::SOCKET_NAME;

/// The socket to use: the one named, or the one in the directory named, or the one in the default directory.
pub(crate) fn socket(socket: Option<&Path>, run_dir: Option<&Path>) -> PathBuf {
    match (socket, run_dir) {
        (Some(socket), _) => socket.to_owned(),
        (None, Some(run_dir)) => run_dir.join(SOCKET_NAME),
        (None, None) => {
            let own = Places::of_this_process().run_dir.join(SOCKET_NAME);
            usual(own, Path::new(HOST_RUN_DIR))
        }
    }
}

/// The run directory of an agent that root runs.
const HOST_RUN_DIR: &str = "/run/vigie";

/// The user's own agent when there is one, otherwise the host's: that one says who may ask it.
fn usual(own: PathBuf, host: &Path) -> PathBuf {
    if own.exists() || !host.exists() { own } else { host.join(SOCKET_NAME) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_socket_comes_before_a_named_directory() {
        let (path, directory) = (Path::new("/a/s"), Path::new("/b"));

        assert_eq!(socket(Some(path), Some(directory)), path);
        assert_eq!(socket(None, Some(directory)), Path::new("/b/agent.sock"));
        assert!(socket(None, None).ends_with(SOCKET_NAME));
    }

    #[test]
    fn without_an_agent_of_his_own_a_user_asks_that_of_the_host() {
        let directory = tempfile::tempdir().unwrap();
        let (own, host) = (directory.path().join("own"), directory.path().join("host"));

        assert_eq!(usual(own.clone(), &host), own);
        std::fs::create_dir(&host).unwrap();
        assert_eq!(usual(own.clone(), &host), host.join(SOCKET_NAME));
        std::fs::write(&own, "").unwrap();
        assert_eq!(usual(own.clone(), &host), own);
    }
}
