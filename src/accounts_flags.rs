//! What `vigie query accounts` takes.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value};

use crate::query_flags::Parameters;

/// `query accounts`
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct AccountsFlags {
    /// Parts of the result to return [default: all except failures]
    #[arg(long, value_name = "PART", value_parser = ["users", "groups", "sudo", "keys", "logins", "failures", "sessions"])]
    what: Vec<String>,

    /// Accounts whose name matches
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    user: Vec<String>,

    /// Accounts with this user ID
    #[arg(long, value_name = "UID")]
    uid: Vec<u32>,

    /// Accounts in a group whose name matches
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    group: Vec<String>,

    /// Accounts that are root or can become root by UID, sudo or group
    #[arg(long)]
    privileged: bool,

    /// Maximum number of logins and failures [default: 100]
    #[arg(long, value_name = "COUNT")]
    newest: Option<usize>,

    /// Examine the system below this directory, such as a mounted image
    #[arg(long, value_name = "PATH")]
    root: Option<PathBuf>,
}

impl AccountsFlags {
    /// The paths that are asked about.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.root.iter()
    }

    /// The parameters of the query.
    pub(crate) fn parameters(self) -> Map<String, Value> {
        let mut all = Parameters::default();
        all.put_all("what", self.what);
        all.put_all("user", self.user);
        all.put_all("uid", self.uid.iter().map(u32::to_string).collect());
        all.put_all("group", self.group);
        all.put_if("privileged", self.privileged);
        all.put_some("newest", self.newest);
        let root = self.root.map(|root| std::path::absolute(&root).unwrap_or(root));
        all.put_some("root", root.map(|root| root.to_string_lossy().into_owned()));
        all.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn flags_have_the_names_of_the_parameters() {
        let flags = AccountsFlags { uid: vec![0], privileged: true, ..Default::default() };

        assert_eq!(Value::Object(flags.parameters()), json!({"uid": ["0"], "privileged": true}));
        assert!(AccountsFlags::default().parameters().is_empty());
    }
}
