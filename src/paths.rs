//! Where the agent's socket is when nobody says.

use std::path::{Path, PathBuf};

use vigie_config::files::Places;
use vigie_protocol::control::SOCKET_NAME;

/// The socket to use: the one named, or the one in the directory named, or the one in the default directory.
pub(crate) fn socket(socket: Option<&Path>, run_dir: Option<&Path>) -> PathBuf {
    match (socket, run_dir) {
        (Some(socket), _) => socket.to_owned(),
        (None, Some(run_dir)) => run_dir.join(SOCKET_NAME),
        (None, None) => Places::of_this_process().run_dir.join(SOCKET_NAME),
    }
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
}
