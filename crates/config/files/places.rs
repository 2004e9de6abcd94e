//! Where the agent's files are unless its configuration says otherwise.

use std::ffi::OsString;
use std::path::PathBuf;

/// The directories and files of one agent by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The configuration file that is read when none is named; it may be missing.
    pub config_file: PathBuf,
    /// Default of `agent.run_dir`.
    pub run_dir: PathBuf,
    /// Default of `agent.state_dir`.
    pub state_dir: PathBuf,
    /// Default of `logging.file`; `agent.log` in the state directory when absent.
    pub log_file: Option<PathBuf>,
}

impl Places {
    /// The places for the user that runs this process: the system's for root, the XDG base directories for
    /// everyone else.
    #[must_use]
    pub fn of_this_process() -> Self {
        let user = nix::unistd::geteuid();
        if user.is_root() {
            Self::system()
        } else {
            Self::of_user(user.as_raw(), |name| std::env::var_os(name))
        }
    }

    /// The places for root.
    #[must_use]
    pub fn system() -> Self {
        Self {
            config_file: "/etc/vigie/vigie.toml".into(),
            run_dir: "/run/vigie".into(),
            state_dir: "/var/lib/vigie".into(),
            log_file: Some("/var/log/vigie/agent.log".into()),
        }
    }

    /// The places for another user. As the XDG specification says, a variable that holds no absolute path
    /// counts as absent.
    #[must_use]
    pub(crate) fn of_user(uid: u32, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let directory = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = directory("HOME").unwrap_or_else(|| std::env::temp_dir().join(format!("vigie-{uid}")));
        let config = directory("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
        let state_dir =
            directory("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state")).join("vigie");
        let run_dir = match directory("XDG_RUNTIME_DIR") {
            Some(runtime) => runtime.join("vigie"),
            None => state_dir.join("run"),
        };
        Self { config_file: config.join("vigie/vigie.toml"), run_dir, state_dir, log_file: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_root_everything_is_in_the_xdg_directories() {
        let set = Places::of_user(1000, |name| match name {
            "HOME" => Some("/home/ada".into()),
            "XDG_RUNTIME_DIR" => Some("/run/user/1000".into()),
            "XDG_STATE_HOME" => Some("relative".into()),
            _ => None,
        });

        assert_eq!(set.config_file, PathBuf::from("/home/ada/.config/vigie/vigie.toml"));
        assert_eq!(set.run_dir, PathBuf::from("/run/user/1000/vigie"));
        assert_eq!(set.state_dir, PathBuf::from("/home/ada/.local/state/vigie"));
    }

    #[test]
    fn without_a_runtime_directory_sockets_are_below_the_state() {
        let set = Places::of_user(7, |name| (name == "XDG_STATE_HOME").then(|| "/s".into()));

        assert_eq!(set.run_dir, PathBuf::from("/s/vigie/run"));
    }
}
