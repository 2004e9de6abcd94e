//! Who changed something: what is known of a process, and why what is not known is not.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::change::shown;

/// Most processes that are named for one change.
const MAX_WRITERS: usize = 4;

/// Why something about a process is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unknown {
    /// The process was gone before it could be asked.
    #[error("the process had ended")]
    Ended,
    /// The kernel did not let us read it.
    #[error("not allowed to ask")]
    Denied,
    /// The process is outside our process namespace.
    #[error("the process is in another process namespace")]
    OtherNamespace,
}

/// Something that may not be known.
pub type Known<T> = Result<T, Unknown>;

/// A process as it was when it changed something.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its id in our process namespace.
    pub pid: i32,
    /// The program that it runs.
    pub executable: Known<PathBuf>,
    /// Its command line, blanks between the arguments.
    pub command: Known<String>,
    /// Its effective user id.
    pub user: Known<u32>,
    /// The user that logged in, whoever it is now (audit user id); none for what no login started.
    pub login_user: Known<Option<u32>>,
    /// The process that started it, and what that runs.
    pub parent: Known<(i32, Option<PathBuf>)>,
    /// Its container or unit, as its control group names it; none when it is in none.
    pub container: Known<Option<String>>,
}

impl Process {
    /// A process of which only the id is known.
    #[must_use]
    pub fn unknown(pid: i32, why: Unknown) -> Self {
        Self {
            pid,
            executable: Err(why),
            command: Err(why),
            user: Err(why),
            login_user: Err(why),
            parent: Err(why),
            container: Err(why),
        }
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
        add("executable", self.executable.as_ref().map(|path| json!(shown(path))).map_err(|why| *why));
        add("command", self.command.as_ref().map(|text| json!(text)).map_err(|why| *why));
        add("user", self.user.map(|id| json!(id)));
        add("login_user", self.login_user.map(|id| json!(id)));
        let parent = self.parent.as_ref().map_err(|why| *why);
        add(
            "parent",
            parent.map(|(pid, executable)| match executable {
                Some(path) => json!({"pid": pid, "executable": shown(path)}),
                None => json!({"pid": pid}),
            }),
        );
        add("container", self.container.as_ref().map(|name| json!(name)).map_err(|why| *why));
        if !unknown.is_empty() {
            map.insert("unknown".to_owned(), Value::Object(unknown));
        }
        Value::Object(map)
    }
}

/// The last processes that changed something; the newest last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writers(Vec<Arc<Process>>);

impl Writers {
    /// One process.
    #[must_use]
    pub fn one(process: Arc<Process>) -> Self {
        Self(vec![process])
    }

    /// Adds those who came later.
    pub fn merge(&mut self, later: Self) {
        for process in later.0 {
            // The same process again, perhaps with more known of it or another program.
            self.0.retain(|known| known.pid != process.pid);
            self.0.push(process);
        }
        let surplus = self.0.len().saturating_sub(MAX_WRITERS);
        self.0.drain(..surplus);
    }

    /// Who wrote last.
    #[must_use]
    pub fn last(&self) -> Option<&Arc<Process>> {
        self.0.last()
    }

    /// All of them, the newest last.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Process>> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_named_with_its_reason() {
        let process = Process {
            executable: Ok("/bin/sh".into()),
            user: Ok(0),
            login_user: Ok(None),
            container: Ok(None),
            ..Process::unknown(7, Unknown::Ended)
        };

        let told = process.to_json();

        assert_eq!(
            told,
            json!({
                "pid": 7, "executable": "/bin/sh", "user": 0,
                "unknown": {"command": "the process had ended", "parent": "the process had ended"},
            })
        );
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
}
