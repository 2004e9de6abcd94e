//! Somebody at the command line of a fleet.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use vigie_fleet::broker::jwt::Role;

use crate::harness::{Fleet, agent, alice, root};
use crate::host::VIGIE;

/// The person, with a directory for files of his own.
pub(crate) struct Person {
    place: tempfile::TempDir,
    credentials: PathBuf,
    role: Role,
}

impl Person {
    /// Alice, who asks.
    pub(crate) fn alice(fleet: &Fleet) -> Self {
        Self::new(fleet, Role::Investigator, "alice")
    }

    /// An administrator.
    pub(crate) fn administrator(fleet: &Fleet) -> Self {
        Self::new(fleet, Role::Administrator, "admin")
    }

    fn new(fleet: &Fleet, role: Role, name: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        alice().write_new(&place.path().join("key"), "alice").unwrap();
        let credentials = fleet.broker.credentials_file(role, &agent(name)).unwrap();
        Self { place, credentials, role }
    }

    /// A file of his.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Runs a command. The broker's address can be another one after a restart.
    pub(crate) fn run(&self, fleet: &Fleet, arguments: &[&str]) -> Output {
        let roots: Vec<String> = [1, 2, 3].map(|number| root(number).public_key().to_string()).into();
        let user = if self.role == Role::Investigator { "alice" } else { "admin" };
        let profile = format!(
            "org = \"example\"\nuser = {user:?}\nrole = {:?}\nurls = [{:?}]\ncredentials = {:?}\nroots = {}\n\
             root_threshold = 2\nsigning_key = \"key\"\n",
            self.role.name(),
            fleet.broker.url(),
            self.credentials,
            json!(roots)
        );
        fs::write(self.path("fleet.toml"), profile).unwrap();
        let output = Command::new(VIGIE)
            .args(arguments)
            .current_dir(self.place.path())
            .env("VIGIE_FLEET", self.path("fleet.toml"))
            .env("XDG_STATE_HOME", Path::new(self.place.path()))
            .output()
            .unwrap();
        println!(
            "{arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    /// The lines of JSON that a command prints.
    pub(crate) fn json(&self, fleet: &Fleet, arguments: &[&str]) -> Vec<Value> {
        let output = self.run(fleet, &[arguments, &["--json"]].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        crate::forms::check(arguments, &text);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
