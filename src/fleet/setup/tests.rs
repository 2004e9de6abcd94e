use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::fleet::profile::Profile;

fn example(directory: PathBuf) -> Plan {
    Plan {
        store: directory.join("jetstream"),
        directory,
        org: "example".parse().unwrap(),
        urls: vec!["nats://127.0.0.1:4222".to_owned()],
        listen: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 4222),
        tls: None,
        own_authority: false,
        replicas: 1,
        investigator: "ann".parse().unwrap(),
        investigator_key: None,
        roots: Vec::new(),
        threshold: 1,
    }
}

#[test]
fn a_new_fleet_fits_together_and_is_never_overwritten() {
    let place = tempfile::tempdir().unwrap();
    let plan = example(place.path().join("fleet"));

    let made = make(&plan).unwrap();

    let profile = Profile::load(Some(&made.investigator)).unwrap();
    let policy = policy::of(made.policy.as_deref(), &profile).unwrap();
    let key = key_of(&plan.directory.join("ann/key.pub")).unwrap();
    assert_eq!(policy.investigator(key.fingerprint()).unwrap().0, "ann");
    assert!(Profile::load(Some(&made.administrator)).unwrap().enrolling.authority.is_some());
    assert_eq!(make(&plan).unwrap_err().exit, Exit::Usage);
}

#[test]
fn no_secret_is_for_others() {
    fn check(directory: &Path) {
        assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o077, 0, "{directory:?}");
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                check(&path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let secret = text.contains("PRIVATE KEY") || text.starts_with('S') || text.contains("SEED");
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert!(!secret || mode & 0o077 == 0, "{path:?} has mode {mode:o}");
        }
    }
    let place = tempfile::tempdir().unwrap();
    let plan = example(place.path().join("fleet"));

    make(&plan).unwrap();

    check(&plan.directory);
}

#[test]
fn given_root_keys_sign_elsewhere() {
    let place = tempfile::tempdir().unwrap();
    let roots = [1, 2].map(|seed| SigningKey::from_seed(&[seed; 32]).public_key().clone()).to_vec();
    let plan = Plan { roots, threshold: 2, ..example(place.path().join("fleet")) };

    let made = make(&plan).unwrap();

    assert!(made.policy.is_none());
    assert!(next_steps(&plan, &made).contains("2 root key(s) sign the policy"));
    let alone = Plan { threshold: 2, ..example(place.path().join("other")) };
    assert!(make(&alone).unwrap_err().message.contains("2 of 1 root keys"));
}
