//! Who logged in, tried to, and is logged in.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::FileExt;

use vigie_host::shown;
use vigie_packagedb::sqlite::{Database, SqliteError, Value};
use vigie_tree::{Root, Unread};

use super::{Gatherer, MAX_FILE};
use crate::logins::{self, LASTLOG_BYTES, Login, UTMP_BYTES, time};
use crate::sudoers::Problem;

/// Most bytes of a log of logins that are read, from its end.
const MAX_LOG: u64 = 64 << 20;

impl Gatherer<'_> {
    /// The last login of each account: from lastlog, and from the database that took its place.
    pub(super) fn last_logins(&mut self) {
        if !self.parameters.wants("users") {
            return;
        }
        let mut last: HashMap<String, (i64, String)> = HashMap::new();
        let users: Vec<(String, u32)> =
            self.found.users.iter().map(|user| (user.username.clone(), user.uid)).collect();
        let read = self.reading("/var/log/lastlog", |tree| {
            let file = tree.find(b"/var/log/lastlog")?.open()?;
            for (name, uid) in users {
                // The file has holes where nobody has such a number.
                let mut record = [0; LASTLOG_BYTES];
                if file.read_exact_at(&mut record, u64::from(uid) * LASTLOG_BYTES as u64).is_ok()
                    && let Some((seconds, _, host)) = logins::last_login(&record)
                {
                    last.insert(name, (seconds, host));
                }
            }
            Ok(())
        });
        match read {
            Ok(()) => self.found.examined += 1,
            Err(Unread::Gone) => {}
            Err(why) => self.found.coverage.skip("/var/log/lastlog", why.to_string()),
        }
        self.each_row("/var/lib/lastlog/lastlog2.db", "Lastlog2", &mut |row| {
            if let (Some(name), Some(seconds)) = (text_of(row.first()), number_of(row.get(1))) {
                let host = text_of(row.get(3)).unwrap_or_default();
                let entry = last.entry(name).or_insert((seconds, host.clone()));
                if entry.0 < seconds {
                    *entry = (seconds, host);
                }
            }
        });
        for user in &mut self.found.users {
            if let Some((seconds, host)) = last.remove(&user.username) {
                user.last_login = Some(time(seconds));
                user.last_host = Some(host).filter(|host| !host.is_empty());
            }
        }
    }

    /// Reads a table of a database of SQLite, when it is there and no link leads to it.
    fn each_row(&mut self, path: &str, table: &str, each: &mut dyn FnMut(&[Value])) {
        let root = self.parameters.root().to_owned();
        let database = match self.reading(path, |tree| tree.find(path.as_bytes())) {
            Ok(entry) if entry.path == path.as_bytes() && entry.status.is_file() => {
                Root::open(&root).map(|root| root.place(path))
            }
            Ok(_) => {
                self.found.coverage.skip(path, "a link leads there");
                return;
            }
            Err(Unread::Gone) => return,
            Err(why) => {
                self.found.coverage.skip(path, why.to_string());
                return;
            }
        };
        let read = self.reading(path, |_| {
            let database = Database::open(&database.map_err(SqliteError::from)?)?;
            // Names of tables are as they were written when they were made.
            let names = [table.to_owned(), table.to_lowercase()];
            for name in names {
                if let Some(root) = database.table(&name)? {
                    return database.each_row(root, &mut |_, row| each(row));
                }
            }
            Ok(())
        });
        self.found.examined += 1;
        if let Err(why) = read {
            self.found.coverage.skip(path, why.to_string());
        }
    }

    /// Logins in the database that took the place of wtmp: ID, Type, User, Login, Logout, TTY, RemoteHost, Service.
    pub(super) fn wtmpdb(&mut self) {
        const USER: i64 = 3;
        let mut found: Vec<(i64, Login)> = Vec::new();
        self.each_row("/var/lib/wtmpdb/wtmp.db", "wtmp", &mut |row| {
            if number_of(row.get(1)) != Some(USER) {
                return;
            }
            let (Some(username), Some(login)) = (text_of(row.get(2)), number_of(row.get(3))) else { return };
            let micro = |value: i64| time(value / 1_000_000);
            found.push((
                login,
                Login {
                    username,
                    tty: text_of(row.get(5)).unwrap_or_default(),
                    host: text_of(row.get(6)).unwrap_or_default(),
                    time: micro(login),
                    end: number_of(row.get(4)).filter(|end| *end > 0).map(micro),
                    pid: None,
                    source: "wtmpdb",
                },
            ));
        });
        found.sort_by_key(|(login, _)| std::cmp::Reverse(*login));
        self.found.logins.extend(found.into_iter().map(|(_, login)| login));
    }

    /// Logins of a log and of the one before it, newest first.
    pub(super) fn log(&mut self, paths: &[&str], source: &'static str) -> (Vec<Login>, Vec<Problem>) {
        let mut content = Vec::new();
        for path in paths.iter().rev() {
            let read = self.reading(*path, |tree| {
                let entry = tree.find(path.as_bytes())?;
                let (file, size) = (entry.open()?, entry.status.size);
                let whole = size - size % UTMP_BYTES as u64;
                let start = whole.saturating_sub(MAX_LOG - MAX_LOG % UTMP_BYTES as u64);
                let mut part = vec![0; usize::try_from(whole - start).unwrap_or(0)];
                Ok((start, file.read_exact_at(&mut part, start).map(|()| part)))
            });
            match read {
                Ok((start, read)) => {
                    self.found.examined += 1;
                    if start > 0 {
                        self.found.coverage.skip(*path, "only the newest part was read");
                    }
                    match read {
                        Ok(part) => content.extend(part),
                        Err(error) => self.found.coverage.skip(*path, error.to_string()),
                    }
                }
                Err(Unread::Gone) => {}
                Err(why) => self.found.coverage.skip(*path, why.to_string()),
            }
        }
        let (logins, problems) =
            self.reading(paths[0], |_| logins::logins(&logins::records(&content), source));
        let problem = |problem| Problem { file: paths[0].to_owned(), line: None, problem };
        (logins, problems.into_iter().map(problem).collect())
    }

    /// Who is logged in, as utmp and logind say.
    pub(super) fn sessions(&mut self) {
        if !self.parameters.is_this_host() {
            self.found.coverage.skip("current sessions", "another root than that of this host is examined");
            return;
        }
        let mut known: HashSet<String> = HashSet::new();
        let directory = "/run/systemd/sessions";
        for entry in self.reading(directory, |tree| tree.list(directory.as_bytes())).unwrap_or_default() {
            if entry.name().ends_with(b".ref") || !entry.status.is_file() {
                continue;
            }
            let Ok(content) = self.reading(shown(&entry.path), |_| entry.read(65_536)) else {
                self.found.coverage.skip(shown(&entry.path), "it cannot be read");
                continue;
            };
            self.found.examined += 1;
            let session = logins::session(&content);
            let get = |key: &str| session.get(key).cloned().unwrap_or_default();
            let class = get("CLASS");
            if get("STATE") == "closing" || class.starts_with("manager") {
                continue;
            }
            let pid = get("LEADER").parse::<i32>().ok();
            if pid.is_some_and(|pid| !is_alive(pid)) {
                continue;
            }
            let started = get("REALTIME").parse::<i64>().unwrap_or(0) / 1_000_000;
            known.insert(get("TTY"));
            self.found.sessions.push(Login {
                username: get("USER"),
                tty: get("TTY"),
                host: get("REMOTE_HOST"),
                time: time(started),
                end: None,
                pid,
                source: "logind",
            });
        }
        for path in ["/run/utmp", "/var/run/utmp"] {
            let Some(content) = self.read(path, MAX_FILE) else { continue };
            let (logins, _) = logins::logins(&logins::records(&content), "utmp");
            for login in logins {
                let lives = login.end.is_none() && login.pid.is_some_and(is_alive);
                if lives && !known.contains(&login.tty) {
                    self.found.sessions.push(login);
                }
            }
            break;
        }
    }
}

fn is_alive(pid: i32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

fn text_of(value: Option<&Value>) -> Option<String> {
    match value {
        Some(Value::Text(text)) => Some(shown(text.as_ref())),
        _ => None,
    }
}

fn number_of(value: Option<&Value>) -> Option<i64> {
    match value {
        Some(Value::Integer(number)) => Some(*number),
        _ => None,
    }
}
