use super::*;
use crate::codec::tests::object;
use proptest::prelude::*;
use std::collections::BTreeMap as Model;
use std::collections::HashSet;
use std::collections::btree_map::Entry;

fn path() -> impl Strategy<Value = PathBuf> {
    let name = proptest::sample::select(vec!["a", "b", "a!", "ab", "\u{1}", "0", "c d"]);
    proptest::collection::vec(name, 0..4).prop_map(|names| {
        let mut path = PathBuf::from("/");
        path.extend(names);
        path
    })
}

#[derive(Debug, Clone)]
enum Step {
    Insert(PathBuf, Object),
    Remove(PathBuf),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (path(), object()).prop_map(|(path, object)| Step::Insert(path, object)),
        1 => path().prop_map(Step::Remove),
    ];
    proptest::collection::vec(step, 0..300)
}

fn build(steps: Vec<Step>) -> (Baseline, Model<PathBuf, Object>) {
    let (mut baseline, mut model) = (Baseline::default(), Model::new());
    for step in steps {
        match step {
            Step::Insert(path, object) => {
                baseline.insert(&path, &object);
                model.insert(path, object);
            }
            Step::Remove(path) => assert_eq!(baseline.remove(&path), model.remove(&path).is_some()),
        }
    }
    (baseline, model)
}

proptest! {
    #[test]
    fn files_are_found_by_their_inodes_in_slices_of_any_size(
        steps in steps(), entries in 1_usize..70, files in 1_usize..5,
    ) {
        let (baseline, model) = build(steps);
        let is_file = |object: &&Object| object.kind == Kind::File;
        let wanted: HashSet<_> =
            model.values().filter(is_file).step_by(3).map(|object| (object.device, object.inode)).collect();
        let (mut found, mut after, mut is_first) = (Vec::new(), None, true);
        while is_first || after.is_some() {
            let (part, last) = baseline.files_of(|file| wanted.contains(&file), after.as_deref(), (entries, files));
            prop_assert!(part.len() <= files);
            found.extend(part.into_iter().map(|(path, _)| path));
            (after, is_first) = (last, false);
        }

        found.sort();
        let has = |object: &Object| wanted.contains(&(object.device, object.inode));
        let there = model.iter().filter(|(_, object)| is_file(object) && has(object));
        let there: Vec<_> = there.map(|(path, _)| path.clone()).collect();
        prop_assert_eq!(found, there);
    }

    #[test]
    fn the_last_below_a_directory_are_all_in_it_and_none_before_what_is_in_it(
        steps in steps(), directory in path(), most in 1_usize..40,
    ) {
        let (baseline, model) = build(steps);
        let below = model.keys().filter(|path| path.starts_with(&directory) && **path != directory).count();
        let found = baseline.last_below(&directory, most);

        prop_assert_eq!(baseline.count_below(&directory), below);
        prop_assert_eq!(found.len(), below.min(most));
        for (index, path) in found.iter().enumerate() {
            prop_assert!(path.starts_with(&directory) && *path != directory && model.contains_key(path));
            prop_assert!(!found[index + 1..].iter().any(|later| later.starts_with(path)));
        }
    }
}

fn all(baseline: &Baseline) -> Model<PathBuf, Object> {
    baseline.after(None, usize::MAX).into_iter().collect()
}

fn usual_object(number: u32) -> Object {
    use crate::object::{Content, Kind, Timestamp};
    Object {
        kind: Kind::File,
        permissions: 0o644,
        owner: 0,
        group: 0,
        size: u64::from(number) * 977,
        modified: Timestamp { seconds: 1_790_000_000 + i64::from(number), nanoseconds: 123_456_789 },
        changed: Timestamp { seconds: 1_790_000_100 + i64::from(number), nanoseconds: 987_654_321 },
        device: 2049,
        inode: 4_000_000 + u64::from(number),
        links: 1,
        special: 0,
        flags: 0,
        content: Content::Digest([number as u8; 32]),
        extended: crate::extended::ExtendedAttributes::none(),
    }
}

#[test]
fn a_path_is_found_again_from_its_key() {
    for path in ["/", "/a", "/a/b", "/a/b c/d"] {
        assert_eq!(path_of(&key_of(Path::new(path))), Path::new(path));
    }
}

#[test]
fn blocks_are_full_in_whichever_order_directories_come() {
    let object = usual_object(7);
    for is_forward in [true, false] {
        let mut baseline = Baseline::default();
        for number in 0..1_000_u32 {
            let number = if is_forward { number } else { 999 - number };
            let names: Vec<_> = (0..25).map(|name| (format!("n{name:02}").into(), object.clone())).collect();
            assert_eq!(baseline.insert_new_names(Path::new(&format!("/d{number:04}")), &names), [0; 0]);
        }
        assert_eq!(baseline.len(), 25_000);
        assert_eq!(baseline.blocks.len(), 25_000_usize.div_ceil(BLOCK_ENTRIES));
    }
}

#[test]
fn a_name_that_was_listed_twice_is_taken_once() {
    let mut baseline = Baseline::default();
    let names: Vec<(OsString, Object)> =
        ["a", "a", "b"].into_iter().map(|name| (name.into(), usual_object(1))).collect();

    assert_eq!(baseline.insert_new_names(Path::new("/d"), &names), [1]);
    assert_eq!(all(&baseline).len(), 2);
}

#[test]
fn an_object_of_a_usual_tree_needs_less_than_a_hundred_bytes() {
    let mut baseline = Baseline::default();
    for number in 0..10_000_u32 {
        let object = usual_object(number);
        let path = format!("/usr/share/some/where{}/file-name-{number:05}.txt", number / 25);
        baseline.insert(Path::new(&path), &object);
    }

    let each = baseline.bytes() / baseline.len();
    assert!(each < 100, "{each} bytes");
}

/// Attributes of 120 KB and a link to 4,000 bytes for each of 10,000 files, all different: 1.2 GB in the file system.
#[test]
fn whatever_attributes_and_targets_users_choose_an_object_stays_small_and_is_forgotten() {
    use crate::extended::ExtendedAttributes;
    use crate::object::Content;
    const FILES: u32 = 10_000;
    let mut baseline = Baseline::default();
    let path = |number| PathBuf::from(format!("/home/user/{number:05}"));
    let shared = ExtendedAttributes::new([(&b"security.selinux"[..], &b"system_u:object_r:etc_t:s0\0"[..])]);
    let value = [b'v'; 4_000];
    for number in 0..FILES {
        let extended = match number % 4 {
            0 => {
                let names: Vec<_> =
                    (0..30).map(|nth| format!("user.{}{nth}_{number}", "z".repeat(200))).collect();
                ExtendedAttributes::new(names.iter().map(|name| (name.as_bytes(), &value[..])))
            }
            1 => ExtendedAttributes::new([(format!("user.{number}").as_bytes(), &value[..])]),
            2 => ExtendedAttributes::new([(&b"user.short"[..], &number.to_le_bytes()[..])]),
            _ => shared.clone(),
        };
        let content = match number % 2 {
            0 => Content::target(format!("{}{number}", "A".repeat(4_000)).into_bytes()),
            _ => Content::Digest([7; 32]),
        };
        baseline.insert(&path(number), &Object { extended, content, ..usual_object(number) });
    }
    let each = (baseline.bytes() + baseline.tables().bytes()) / FILES as usize;
    assert!(each < 300, "{each} bytes");

    let of_tables = baseline.tables().bytes();
    for number in 0..FILES {
        baseline.remove(&path(number));
    }
    for number in 0..FILES {
        let extended = ExtendedAttributes::new([(&b"user.other"[..], &number.to_le_bytes()[..])]);
        let object = Object { extended, ..usual_object(number) };
        baseline.insert(&path(number), &object);
        assert_eq!(baseline.get(&path(number)), Some(object));
        baseline.remove(&path(number));
    }
    assert_eq!((baseline.bytes(), baseline.tables().bytes()), (0, of_tables), "nothing grows any more");
    assert!(of_tables < 1024 * 1024, "{of_tables}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn it_holds_what_a_plain_map_holds(steps in steps()) {
        let (baseline, model) = build(steps);

        prop_assert_eq!(baseline.len(), model.len());
        prop_assert_eq!(baseline.bytes(), baseline.blocks().map(<[u8]>::len).sum::<usize>());
        for (path, object) in &model {
            prop_assert_eq!(baseline.get(path), Some(object.clone()));
        }
        prop_assert_eq!(all(&baseline), model);
    }

    #[test]
    fn what_is_known_stays_when_only_new_names_are_taken(
        steps in steps(),
        directories in proptest::collection::vec(
            (path(), proptest::collection::btree_map("[a-c!]{1,4}", object(), 0..150)), 0..5
        ),
    ) {
        let (mut baseline, mut model) = build(steps);
        for (directory, names) in directories {
            let objects: Vec<(OsString, Object)> =
                names.into_iter().map(|(name, object)| (name.into(), object)).collect();

            let known = baseline.insert_new_names(&directory, &objects);

            let mut expected = Vec::new();
            for (place, (name, object)) in objects.into_iter().enumerate() {
                match model.entry(directory.join(name)) {
                    Entry::Occupied(_) => expected.push(place),
                    Entry::Vacant(vacant) => _ = vacant.insert(object),
                }
            }
            prop_assert_eq!(known, expected);
        }
        prop_assert!(baseline.blocks.values().all(|block| usize::from(block.entries) <= BLOCK_ENTRIES));
        prop_assert_eq!(baseline.bytes(), baseline.blocks().map(<[u8]>::len).sum::<usize>());
        prop_assert_eq!(all(&baseline), model);
    }

    #[test]
    fn trees_children_and_ways_are_what_a_plain_search_finds(steps in steps(), at in path()) {
        let (baseline, model) = build(steps);

        let tree: Vec<_> = model.keys().filter(|path| path.starts_with(&at)).cloned().collect();
        prop_assert_eq!(baseline.tree(&at), tree.clone());
        // The same in parts.
        let (mut parts, mut after) = (Vec::new(), None);
        loop {
            let part = baseline.tree_after(&at, after.as_deref(), 2);
            let Some(last) = part.last() else { break };
            after = Some(last.clone());
            parts.extend(part);
        }
        parts.sort();
        prop_assert_eq!(parts, tree);
        let children: Vec<_> = baseline.children(&at).into_iter().map(|(name, _)| at.join(name)).collect();
        let mut expected: Vec<_> =
            model.keys().filter(|path| path.parent() == Some(&at)).cloned().collect();
        expected.sort();
        prop_assert_eq!(children, expected);
        let mut ways: Vec<_> = model
            .keys()
            .filter_map(|path| path.strip_prefix(&at).ok())
            .filter(|rest| rest.components().count() > 1)
            .filter_map(|rest| Some(rest.components().next()?.as_os_str().to_owned()))
            .collect();
        ways.sort();
        ways.dedup();
        prop_assert_eq!(baseline.ways(&at), ways);
    }

    #[test]
    fn blocks_build_the_same_map_and_damaged_ones_never_panic(
        steps in steps(), damage in any::<(prop::sample::Index, u8)>(),
    ) {
        let (baseline, model) = build(steps);
        let mut copy = Baseline::default();
        copy.tables_mut().add(&baseline.tables().encode_from((0, 0))).unwrap();
        let mut damaged = copy.clone();
        for block in baseline.blocks() {
            copy.add_block(block).unwrap();
            let mut block = block.to_vec();
            let at = damage.0.index(block.len());
            block[at] ^= damage.1;
            let _ = damaged.add_block(&block);
        }

        prop_assert_eq!(copy.len(), model.len());
        prop_assert_eq!(all(&copy), model);
        drop(all(&damaged));
    }

    #[test]
    fn going_on_after_a_path_gives_every_object_once(steps in steps(), most in 1..20_usize) {
        let (baseline, model) = build(steps);
        let mut seen = Vec::new();
        loop {
            let part = baseline.after(seen.last().map(|(path, _): &(PathBuf, Object)| path.as_path()), most);
            if part.is_empty() {
                break;
            }
            seen.extend(part);
        }
        prop_assert_eq!(seen.len(), model.len());
        prop_assert_eq!(seen.into_iter().collect::<Model<_, _>>(), model);
    }
}
