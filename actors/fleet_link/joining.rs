//! Becoming a member: opens what is on disk and makes the connection.

use std::sync::Arc;

use actix::Addr;
use slog::Logger;
use tokio::sync::mpsc;
use vigie_fleet::broker::connection::{
    self, BrokerEvent, Connection, ConnectionError, ConnectionSettings, Login, TlsSettings,
};
use vigie_fleet::broker::permissions::Role;
use vigie_journal::Names;

use super::alert_cursor::AlertCursor;
use super::disk::{self, MembershipError, Opened, Places};
use super::uplink::Hold;
use crate::alert_journal::{AlertJournal, GetJournalView, JournalView, SentThrough};
use crate::work_threads::{self, Lane};
use vigie_config::model::{FleetSection, LoadedConfig};

/// Events of the connection that wait; one that does not fit is counted by the connection.
const EVENTS: usize = 64;

/// Why there is no membership.
#[derive(Debug, thiserror::Error)]
pub(super) enum JoinError {
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error("cannot read the agent's JWT {path:?}; create it with `vigie fleet enrol`")]
    Credentials {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(
        "cannot assign an ID to the alert journal in {directory:?}; its alerts cannot be sent without one"
    )]
    Journal {
        directory: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the agent is stopping")]
    Stopping,
}

impl JoinError {
    /// The log of actions that were run is what cannot be used.
    pub(super) fn is_of_replay_log(&self) -> bool {
        matches!(self, Self::Membership(MembershipError::Replay(_)))
    }
}

/// What a membership needs to begin.
pub(super) struct Joined {
    pub(super) opened: Opened,
    /// How far the alerts are sent.
    pub(super) cursor: AlertCursor,
    /// When the journal got its present name, in seconds since 1970.
    pub(super) renamed_at: i64,
    pub(super) connection: Connection,
    pub(super) events: mpsc::Receiver<BrokerEvent>,
    pub(super) view: JournalView,
}

/// The files of a membership, one after the other: `before` ends when nobody works on those of the one before.
pub(super) struct Turn {
    pub(super) before: Option<mpsc::Receiver<std::convert::Infallible>>,
    pub(super) hold: Hold,
}

/// Opens what is on disk and makes the connection, which comes about in the background.
pub(super) async fn join(
    config: Arc<LoadedConfig>,
    section: FleetSection,
    turn: Turn,
    journal: Addr<AlertJournal>,
    log: Logger,
) -> Result<Joined, JoinError> {
    if let Some(mut before) = turn.before {
        before.recv().await;
    }
    let view = journal.send(GetJournalView).await.map_err(|_| JoinError::Stopping)?;
    let (cursor, renamed_at) = load_cursor(&config, &view).await?;
    // Before anything that can fail: what the fleet does not have must not go meanwhile.
    journal.send(SentThrough(Some(cursor.sent_for_good()))).await.map_err(|_| JoinError::Stopping)?;
    let opening = {
        let (section, hold) = (section.clone(), turn.hold);
        work_threads::run(Lane::Fleet, move || {
            #[expect(clippy::disallowed_methods, reason = "on Lane::Fleet")]
            let token = std::fs::read_to_string(&section.credentials)
                .map_err(|source| JoinError::Credentials { path: section.credentials.clone(), source })?;
            Ok::<_, JoinError>((disk::open(&config, section, hold, &log)?, token))
        })
    };
    let (opened, token) = opening.await.map_err(|_| JoinError::Stopping)??;
    let (send_events, events) = mpsc::channel(EVENTS);
    let settings = connection_settings(&section, token.trim().to_owned(), (*opened.key).clone());
    let connection = connection::connect(settings, send_events).await?;
    Ok(Joined { opened, cursor, renamed_at, connection, events, view })
}

async fn load_cursor(config: &LoadedConfig, view: &JournalView) -> Result<(AlertCursor, i64), JoinError> {
    let (path, directory) =
        (Places::of(&config.agent.agent.state_dir).alert_cursor(), view.directory.clone());
    let loading = work_threads::run(Lane::Fleet, move || {
        let names = Names::of(&directory).map_err(|source| JoinError::Journal { directory, source })?;
        Ok((AlertCursor::load(&path, &names), names.renamed_at()))
    });
    loading.await.map_err(|_| JoinError::Stopping)?
}

fn connection_settings(
    section: &FleetSection,
    jwt: String,
    key: vigie_fleet::agent_key::AgentKey,
) -> ConnectionSettings {
    ConnectionSettings {
        urls: section.urls.clone(),
        login: Login::Token { jwt, key: Box::new(key) },
        tls: tls_settings(section),
        name: format!("vigie agent {}", section.agent),
        inbox_prefix: Role::Agent.inbox_prefix(&section.agent),
        subscription_capacity: Some(1024),
        connect_in_background: true,
    }
}

/// The certificates that the configuration names.
pub(super) fn tls_settings(section: &FleetSection) -> TlsSettings {
    let (certificate, key) = section.certificate.clone().unzip();
    TlsSettings {
        required: section.urls.iter().any(|url| url.starts_with("tls://")),
        ca: section.ca.clone(),
        certificate,
        key,
    }
}
