//! Who changed something: what is known of a process, and why what is not known is not.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value, json};

use crate::accounts::is_tool;
use crate::change::shown;
use vigie_packagedb::owners::Manager;

/// Most processes that are named for one change.
const MAX_WRITERS: usize = 4;

/// Why something about a process is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unknown {
    /// The process was gone before it could be asked.
    #[error("the process had ended")]
    Ended,
    /// The kernel did not let us read it.
    #[error("not permitted to inspect the process")]
    Denied,
    /// The process is outside our process namespace.
    #[error("the process is in another process namespace")]
    OtherNamespace,
    /// Its name is that of another file here: a bind mount, a container, a changed root.
    #[error("its path is in another mount namespace and here names another file, or none")]
    OtherFile,
    /// It has overwritten its arguments with nothing.
    #[error("the process no longer has a command line")]
    NoCommand,
    /// Whether this was before it ran its program or after it.
    #[error("the process tried to execute its program more than once, and not every attempt succeeded")]
    Tries,
}

/// Something that may not be known.
pub type Known<T> = Result<T, Unknown>;

/// How it is known which program a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proof {
    /// The kernel said so of the process while it ran: one of root, or one that was told to have run it.
    Live,
    /// The kernel said so of a process that can have had it name another file: see `PR_SET_MM_MAP` of prctl(2). That
    /// takes a user namespace of one's own, which everybody can make; and it can be done by another process in the same
    /// memory, so that the namespace of this one proves nothing.
    Shown,
    /// The kernel told that the process opened the program to run it. That may have failed, or not been meant: see
    /// `AT_EXECVE_CHECK` of execveat(2). So it is what somebody claims.
    Opened,
    /// The kernel told that the process ran the program.
    Ran,
}

/// Which file a program is, whatever it is called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Its device.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
}

/// A process that works for a package manager: a descendant of one whose program is the host's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Managed {
    /// The manager.
    pub manager: Manager,
    /// The manager's process furthest up, as alerts tell it.
    pub top: Arc<Process>,
    /// When that started, in clock ticks since the boot.
    pub started: u64,
    /// The process itself runs a program of the host that only root can change.
    pub is_hosts_program: bool,
}

/// A process as it was when it changed something.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its id in our process namespace.
    pub pid: i32,
    /// When it began, in microseconds since the start of the host: together with the id its name for ever. Exact to 10
    /// ms when the kernel did not tell of its exec.
    pub start: Option<u64>,
    /// Command line, users, parent and script are those of the exec, from the kernel.
    pub is_told: bool,
    /// The program that it runs.
    pub executable: Known<PathBuf>,
    /// How that is known.
    pub proof: Proof,
    /// What it calls its program when that is not this file here.
    pub claimed_executable: Option<PathBuf>,
    /// Which file its program is.
    pub identity: Known<Identity>,
    /// Its program is one of this host that only root can change.
    pub is_hosts_program: bool,
    /// The script that its program interprets, as the kernel told at its start.
    pub script: Option<PathBuf>,
    /// Its command line, blanks between the arguments, without secrets. Unless it was told, the process can have
    /// rewritten it.
    pub command: Known<String>,
    /// Its effective user id.
    pub user: Known<u32>,
    /// Its effective user id when it was asked, when that is another than at the exec.
    pub user_now: Option<u32>,
    /// That user's name.
    pub user_now_name: Option<Arc<str>>,
    /// The name of the user at the exec.
    pub user_name: Option<Arc<str>>,
    /// The user that logged in, whoever it is now (audit user id); none for what no login started.
    pub login_user: Known<Option<u32>>,
    /// That user's name.
    pub login_name: Option<Arc<str>>,
    /// The process that started it, and what that runs.
    pub parent: Known<(i32, Option<PathBuf>)>,
    /// That one's program is what it shows, see [`Proof::Shown`].
    pub parent_is_shown: bool,
    /// Its container or unit, as its control group names it; none when it is in none.
    pub container: Known<Option<String>>,
    /// The number of its mount namespace, when that is not ours.
    pub mount_namespace: Known<Option<u64>>,
    /// For which package manager it works.
    pub managed: Known<Option<Arc<Managed>>>,
}

impl Process {
    /// A process of which only the id is known.
    #[must_use]
    pub fn unknown(pid: i32, why: Unknown) -> Self {
        Self {
            pid,
            start: None,
            is_told: false,
            executable: Err(why),
            proof: Proof::Live,
            claimed_executable: None,
            identity: Err(why),
            is_hosts_program: false,
            script: None,
            command: Err(why),
            user: Err(why),
            user_now: None,
            user_now_name: None,
            user_name: None,
            login_user: Err(why),
            login_name: None,
            parent: Err(why),
            parent_is_shown: false,
            container: Err(why),
            mount_namespace: Err(why),
            managed: Err(why),
        }
    }

    /// About what it takes in memory: its texts are as long as whoever ran it likes.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        let path = |path: Option<&PathBuf>| path.map_or(0, |path| path.as_os_str().len());
        let parent = self.parent.as_ref().ok().and_then(|(_, path)| path.as_ref());
        let paths =
            [self.executable.as_ref().ok(), self.claimed_executable.as_ref(), self.script.as_ref(), parent];
        size_of::<Self>()
            + paths.into_iter().map(path).sum::<usize>()
            + self.command.as_ref().map_or(0, String::len)
            + self.container.as_ref().ok().and_then(Option::as_ref).map_or(0, String::len)
    }

    /// It may not have run its program yet when it did this.
    pub(crate) fn doubt(&mut self) {
        self.claimed_executable = self.executable.as_ref().ok().cloned().or(self.claimed_executable.take());
        self.executable = Err(Unknown::Tries);
        self.identity = Err(Unknown::Tries);
        self.is_hosts_program = false;
        self.is_told = false;
        self.managed = Ok(None);
    }

    /// The keys whose values are what the process or somebody before it says, not what the kernel proved.
    fn claimed(&self) -> Vec<&'static str> {
        let is_unproved = matches!(self.proof, Proof::Opened | Proof::Shown);
        let (program, file) = (self.executable.is_ok(), self.identity.is_ok());
        let is_own = !self.is_told;
        let (script, command) = (is_own && self.script.is_some(), is_own && self.command.is_ok());
        let parent = self.parent_is_shown && self.parent.as_ref().is_ok_and(|(_, path)| path.is_some());
        [(is_unproved && program, "executable"), (is_unproved && file, "executable_file")]
            .into_iter()
            .chain([(script, "script"), (command, "command"), (parent, "parent")])
            .filter_map(|(is_claimed, key)| is_claimed.then_some(key))
            .collect()
    }

    /// The process for alerts: what is known, and under `unknown` why the rest is not.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        let mut unknown = Map::new();
        let mut add = |name: &str, value: Known<Value>| match value {
            Ok(Value::Null) => {}
            Ok(value) => _ = map.insert(name.to_owned(), value),
            Err(why) => _ = unknown.insert(name.to_owned(), json!(why.to_string())),
        };
        add("pid", Ok(json!(self.pid)));
        add("start", Ok(json!(self.start)));
        add("executable", self.executable.as_ref().map(|path| json!(shown(path))).map_err(|why| *why));
        add("claimed_executable", Ok(json!(self.claimed_executable.as_deref().map(shown))));
        let identity = self.identity.map(|file| {
            let (major, minor) = (rustix::fs::major(file.device), rustix::fs::minor(file.device));
            json!({"device": format!("{major}:{minor}"), "inode": file.inode})
        });
        add("executable_file", identity);
        add("script", Ok(json!(self.script.as_deref().map(shown))));
        add("command", self.command.as_ref().map(|text| json!(text)).map_err(|why| *why));
        add("user", self.user.map(|id| json!(id)));
        add("user_now", Ok(json!(self.user_now)));
        add("user_now_name", Ok(json!(self.user_now_name.as_deref())));
        add("user_name", Ok(json!(self.user_name.as_deref())));
        add("login_user", self.login_user.map(|id| json!(id)));
        add("login_name", Ok(json!(self.login_name.as_deref())));
        let parent = self.parent.as_ref().map_err(|why| *why);
        add(
            "parent",
            parent.map(|(pid, executable)| match executable {
                Some(path) => json!({"pid": pid, "executable": shown(path)}),
                None => json!({"pid": pid}),
            }),
        );
        add("container", self.container.as_ref().map(|name| json!(name)).map_err(|why| *why));
        add("mount_namespace", self.mount_namespace.map(|number| json!(number)));
        let claimed = self.claimed();
        if !claimed.is_empty() {
            map.insert("claimed".to_owned(), json!(claimed));
        }
        if !unknown.is_empty() {
            map.insert("unknown".to_owned(), Value::Object(unknown));
        }
        Value::Object(map)
    }
}

/// The last processes that changed something; the newest last. Each has the number that its notification was given.
#[derive(Debug, Clone, Default)]
pub struct Writers(Vec<(u64, Arc<Process>)>);

impl PartialEq for Writers {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Writers {}

impl Writers {
    /// One process.
    #[must_use]
    pub fn one(process: Arc<Process>) -> Self {
        static HEARD: AtomicU64 = AtomicU64::new(0);
        Self(vec![(HEARD.fetch_add(1, Ordering::Relaxed), process)])
    }

    /// Adds those who came later.
    pub fn merge(&mut self, later: Self) {
        for (heard, process) in later.0 {
            // The same process again, perhaps with more known of it or another program.
            match self.0.iter().position(|(_, known)| known.pid == process.pid) {
                Some(known) if self.0[known].0 > heard => continue,
                Some(known) => drop(self.0.remove(known)),
                None => {}
            }
            // What waited for long is merged with what was heard meanwhile.
            let at = self.0.partition_point(|(other, _)| *other <= heard);
            self.0.insert(at, (heard, process));
        }
        let surplus = self.0.len().saturating_sub(MAX_WRITERS);
        self.0.drain(..surplus);
    }

    /// The tool for accounts that all of them run; none when one of them runs something else, or may.
    #[must_use]
    pub(crate) fn account_tool(&self) -> Option<&Arc<Process>> {
        let is_tool = |process: &Arc<Process>| {
            process.is_hosts_program && process.executable.as_ref().is_ok_and(|path| is_tool(path))
        };
        self.last().filter(|_| self.iter().all(is_tool))
    }

    /// The package manager that all of them work for; none when one of them does not, or is not known to.
    #[must_use]
    pub(crate) fn managed(&self) -> Option<&Arc<Managed>> {
        let managed = |process: &Arc<Process>| matches!(&process.managed, Ok(Some(_)));
        let last = self.last().filter(|_| self.iter().all(managed))?;
        last.managed.as_ref().ok()?.as_ref()
    }

    /// Who wrote last.
    #[must_use]
    pub fn last(&self) -> Option<&Arc<Process>> {
        self.0.last().map(|(_, process)| process)
    }

    /// All of them, the newest last.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Process>> {
        self.0.iter().map(|(_, process)| process)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_named_with_its_reason() {
        let process = Process {
            executable: Ok("/bin/sh".into()),
            identity: Ok(Identity { device: 0x801, inode: 9 }),
            user: Ok(0),
            user_name: Some("root".into()),
            login_user: Ok(None),
            container: Ok(None),
            mount_namespace: Ok(None),
            ..Process::unknown(7, Unknown::Ended)
        };

        let told = process.to_json();

        assert_eq!(
            told,
            json!({
                "pid": 7, "executable": "/bin/sh", "user": 0, "user_name": "root",
                "executable_file": {"device": "8:1", "inode": 9},
                "unknown": {"command": "the process had ended", "parent": "the process had ended"},
            })
        );
    }

    #[test]
    fn what_a_process_can_make_up_is_marked_as_claimed() {
        let process = Process {
            executable: Ok("/usr/bin/dpkg".into()),
            proof: Proof::Opened,
            command: Ok("dpkg -i x".to_owned()),
            ..Process::unknown(7, Unknown::Ended)
        };
        let shown = Process {
            proof: Proof::Shown,
            identity: Ok(Identity::default()),
            parent: Ok((1, Some("/usr/bin/apt".into()))),
            parent_is_shown: true,
            ..process.clone()
        };
        let elsewhere = Process {
            executable: Err(Unknown::OtherFile),
            claimed_executable: Some("/usr/bin/dpkg".into()),
            proof: Proof::Live,
            ..process.clone()
        };

        assert_eq!(process.to_json()["claimed"], json!(["executable", "command"]));
        let all = json!(["executable", "executable_file", "command", "parent"]);
        assert_eq!(shown.to_json()["claimed"], all);
        let told = elsewhere.to_json();
        assert_eq!((&told["executable"], &told["claimed"]), (&Value::Null, &json!(["command"])));
        assert_eq!(told["claimed_executable"], "/usr/bin/dpkg");
        assert!(told["unknown"]["executable"].as_str().unwrap().contains("another file"), "{told}");
    }

    #[test]
    fn the_last_writers_are_kept_each_once() {
        let mut writers = Writers::default();
        for pid in [1, 2, 1, 3, 4, 5] {
            writers.merge(Writers::one(Arc::new(Process::unknown(pid, Unknown::Ended))));
        }

        let pids: Vec<_> = writers.iter().map(|process| process.pid).collect();
        assert_eq!(pids, [1, 3, 4, 5]);
        assert_eq!(writers.last().map(|process| process.pid), Some(5));
    }

    #[test]
    fn who_was_heard_last_is_the_last_writer_whatever_is_merged_with_what() {
        let [first, last] = [1, 2].map(|pid| Writers::one(Arc::new(Process::unknown(pid, Unknown::Ended))));
        let mut writers = last;
        writers.merge(first);

        assert_eq!(writers.iter().map(|process| process.pid).collect::<Vec<_>>(), [1, 2]);
    }
}
