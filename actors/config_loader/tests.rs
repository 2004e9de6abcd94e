use std::path::Path;

use actix::Addr;
use tokio::sync::mpsc;

use super::*;
use crate::conditions::{Conditions, GetConditions};
use vigie_config::builtin::{BuiltinModule, KeyShape, KeyType, accept_any};
use vigie_config::files::Places;
use vigie_protocol::control::{ModuleConfigStatus, ModuleKind};
use vigie_protocol::privacy::Showing;

const BUILTINS: &[BuiltinModule] = &[BuiltinModule {
    name: "fswatch",
    kind: ModuleKind::Persistent,
    enabled_by_default: true,
    keys: &[KeyShape { section: "Paths", key: "Path", kind: KeyType::Strings }],
    empty_config: r#"{"Paths":{"Path":null}}"#,
    check: accept_any,
    masked_form: |_| Showing::Hidden,
}];

/// Passes what it is told to the test.
struct Probe(mpsc::UnboundedSender<ConfigChanged>);

impl Actor for Probe {
    type Context = Context<Self>;
}

impl Handler<ConfigChanged> for Probe {
    type Result = ();

    fn handle(&mut self, message: ConfigChanged, _ctx: &mut Self::Context) {
        _ = self.0.send(message);
    }
}

/// Modules that have nothing to say, and alerts that nobody reads.
struct Others;

impl Actor for Others {
    type Context = Context<Self>;
}

impl Handler<AwaitConfirmations> for Others {
    type Result = Vec<ModuleConfigStatus>;

    fn handle(&mut self, _: AwaitConfirmations, _: &mut Self::Context) -> Self::Result {
        Vec::new()
    }
}

impl Handler<OwnAlert> for Others {
    type Result = ();

    fn handle(&mut self, _: OwnAlert, _: &mut Self::Context) {}
}

struct Setup {
    directory: tempfile::TempDir,
    conditions: Addr<Conditions>,
    loader: Addr<ConfigLoader>,
    told: mpsc::UnboundedReceiver<ConfigChanged>,
}

fn setup(text: &str) -> Setup {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("vigie.toml");
    // A file without settings holds a comment: an empty one is refused.
    std::fs::write(&file, if text.is_empty() { "# nothing\n" } else { text }).unwrap();
    let options = LoadOptions { places: Places::system(), ..LoadOptions::at_start(Some(file)) };
    let initial = Arc::new(load(&options, BUILTINS).unwrap());
    let (sender, told) = mpsc::unbounded_channel();
    let subscribers = vec![Probe(sender).start().recipient()];
    let log = Logger::root(slog::Discard, o!());
    let others = Others.start();
    let conditions = Conditions::new(&log).start();
    let spec = ConfigLoaderSpec {
        conditions: Reporter::agent(conditions.clone()),
        confirmations: others.clone().recipient(),
        alerts: others.recipient(),
        log,
        options,
        builtins: BUILTINS,
        initial,
        subscribers,
    };
    Setup { directory, conditions, loader: ConfigLoader::new(spec).start(), told }
}

impl Setup {
    fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(Path::new(name));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    async fn reload(&self, dry_run: bool) -> ReloadReport {
        self.loader.send(Reload { dry_run }).await.unwrap()
    }

    async fn view(&self) -> ConfigView {
        self.loader.send(GetConfig).await.unwrap()
    }
}

#[actix_rt::test]
async fn a_reload_applies_the_change_and_tells_the_subscribers_before_it_answers() {
    let mut setup = setup("");
    setup.write("vigie.toml", "[agent]\nheartbeat_misses = 5\n");
    setup.write("modules.d/fswatch.cfg", "[paths]\npath = /etc\n");

    let report = setup.reload(false).await;
    let told = setup.told.try_recv().unwrap();

    assert!(report.ok, "{report:?}");
    assert_eq!(report.generation, 2);
    assert_eq!(
        report.changes,
        ["reconfigure fswatch (its configuration changed)", "agent.heartbeat_misses is 5, was 3"]
    );
    assert_eq!(told.config.generation, 2);
    assert_eq!(told.config.agent.agent.heartbeat_misses, 5);
}

#[actix_rt::test]
async fn a_dry_run_says_the_same_and_changes_nothing() {
    let mut setup = setup("");
    setup.write("vigie.toml", "[agent]\nrun_dir = \"/run/other\"\nnopersistmods = true\n");

    let report = setup.reload(true).await;

    assert!(report.ok);
    assert_eq!(report.generation, 1);
    assert!(report.changes.contains(&"stop fswatch".to_owned()), "{report:?}");
    assert!(
        report.changes.contains(&"agent.run_dir takes effect at the next start".to_owned()),
        "{report:?}"
    );
    assert!(setup.told.try_recv().is_err());
    assert_eq!(setup.view().await.config.generation, 1);
}

#[actix_rt::test]
async fn a_bad_file_changes_nothing_and_is_in_the_status_with_its_line() {
    let mut setup = setup("[agent]\nextraprivacymode = true\n");
    setup.write("vigie.toml", "[agent]\nextraprivacymode = \"true\"\n");

    let report = setup.reload(false).await;
    let view = setup.view().await;

    assert!(!report.ok);
    assert_eq!(report.problems[0].line, Some(2));
    assert!(view.config.agent.agent.extraprivacymode);
    assert!(!view.status.last_reload_ok);
    assert_eq!(view.status.problems, report.problems);
    assert!(setup.told.try_recv().is_err());
}

#[actix_rt::test]
async fn a_modules_file_that_is_broken_is_a_condition_until_it_is_mended_also_when_nothing_else_changes() {
    let mut setup = setup("");
    let good = "[paths]\npath = /etc\n";
    setup.write("modules.d/fswatch.cfg", good);
    assert!(setup.reload(false).await.ok);
    setup.told.try_recv().unwrap();

    for (text, condition) in [("[paths\n", Some("module-configuration-invalid")), (good, None)] {
        setup.write("modules.d/fswatch.cfg", text);
        let report = setup.reload(false).await;
        let standing = setup.conditions.send(GetConditions).await.unwrap();
        let names: Vec<_> = standing.iter().map(|one| one.condition.name.as_str()).collect();

        assert_eq!(report.ok, condition.is_none(), "{report:?}");
        assert_eq!(names, Vec::from_iter(condition), "{standing:?}");
        assert!(setup.told.try_recv().is_err());
    }
}

#[actix_rt::test]
async fn a_thousand_reloads_of_unchanged_files_keep_the_generation() {
    let mut setup = setup("");
    let orders: Vec<_> = (0..1000).map(|_| setup.loader.send(Reload { dry_run: false })).collect();

    let reports = join_all(orders).await;

    assert!(reports.iter().all(|report| report.as_ref().is_ok_and(|report| report.ok)));
    assert_eq!(setup.view().await.config.generation, 1);
    assert!(setup.told.try_recv().is_err());
}

#[actix_rt::test]
async fn reloads_without_end_are_one_pass_and_the_last_state_of_the_file_wins() {
    let mut setup = setup("");
    setup.write("vigie.toml", "[agent]\nheartbeat_misses = 5\n");
    for _ in 0..100_000 {
        let order = || Reload { dry_run: false };
        setup.loader.try_send(order()).or_else(|_| setup.loader.clone().try_send(order())).unwrap();
    }

    let report = setup.reload(false).await;

    assert!(report.ok);
    assert_eq!(setup.view().await.config.generation, 2);
    assert_eq!(setup.told.recv().await.unwrap().config.agent.agent.heartbeat_misses, 5);
    assert!(setup.told.try_recv().is_err());
}

#[actix_rt::test]
async fn a_run_directory_keeps_its_value_until_the_agent_starts_again() {
    let setup = setup("[agent]\nrun_dir = \"/run/one\"\n");
    setup.write("vigie.toml", "[agent]\nrun_dir = \"/run/two\"\n");

    let report = setup.reload(false).await;
    let view = setup.view().await;

    assert_eq!(report.changes, ["agent.run_dir takes effect at the next start"]);
    assert_eq!(view.config.agent.agent.run_dir, PathBuf::from("/run/one"));
    assert_eq!(view.config.generation, 1);
}

#[actix_rt::test]
async fn a_subscriber_that_has_gone_is_reported_and_the_others_are_told() {
    let mut setup = setup("");
    let (sender, gone) = mpsc::unbounded_channel();
    drop(gone);
    let address = Gone(sender).start();
    setup.loader.send(Subscribe(address.clone().recipient())).await.unwrap();
    _ = address.send(Leave).await;
    setup.write("vigie.toml", "[agent]\nheartbeat_misses = 5\n");

    let report = setup.reload(false).await;

    assert!(!report.ok);
    assert!(report.problems[0].message.contains("did not apply"), "{report:?}");
    assert_eq!(setup.told.try_recv().unwrap().config.generation, 2);
}

/// Ends when it is told to.
struct Gone(mpsc::UnboundedSender<ConfigChanged>);

#[derive(Message)]
#[rtype(result = "()")]
struct Leave;

impl Actor for Gone {
    type Context = Context<Self>;
}

impl Handler<Leave> for Gone {
    type Result = ();

    fn handle(&mut self, _message: Leave, ctx: &mut Self::Context) {
        use actix::ActorContext as _;
        ctx.stop();
    }
}

impl Handler<ConfigChanged> for Gone {
    type Result = ();

    fn handle(&mut self, message: ConfigChanged, _ctx: &mut Self::Context) {
        _ = self.0.send(message);
    }
}
