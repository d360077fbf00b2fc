//! Data directories that lack something: absence is never taken for a new beginning.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::Home;

/// What is made anew without any loss: the store's preparations.
const DISPENSABLE: [&str; 3] = ["store/lock", "store/spare", "store/reserve"];
/// Files of the cluster's keys.
const KEYS: [&str; 5] = [
    "pki/ca.crt",
    "pki/ca.key",
    "pki/peer-ca.crt",
    "pki/peer-ca.key",
    "pki/service-account.key",
];

/// The files of a data directory, by their names in it.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        for entry in fs::read_dir(directory.join(&below)).unwrap() {
            let entry = entry.unwrap();
            let path = below.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                left.push(path);
            } else {
                found.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// A copy without what the store prepares.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in files(from).iter().filter(|file| !DISPENSABLE.contains(&file.as_str())) {
        let path = to.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(from.join(file), path).unwrap();
    }
    to
}

fn member(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("member.json")).unwrap()).unwrap()
}

/// As it was before there were fingerprints, or while a first start was under way.
fn forget_keys(directory: &Path) {
    let mut member = member(directory);
    member.as_object_mut().unwrap().remove("keys").expect("it noted its keys");
    fs::write(directory.join("member.json"), serde_json::to_vec(&member).unwrap()).unwrap();
}

/// Does a deed to a file of a copy and expects a refusal that names it, says what to do, and changes nothing.
fn refused(home: &Home, file: &str, deed: impl Fn(&Path)) {
    let hit = copy(&home.data_dir);
    deed(&hit.path().join(file));
    let before = files(hit.path());
    let line = home.refused(hit.path());
    assert!(line.contains(&hit.path().join(file).display().to_string()), "{file}: {line}");
    assert!(line.contains("from a backup"), "{file}: {line}");
    let mut after = files(hit.path());
    after.retain(|file| !DISPENSABLE.contains(&file.as_str()));
    assert_eq!(before, after, "{file}");
}

fn remove(path: &Path) {
    fs::remove_file(path).unwrap();
}

fn empty(path: &Path) {
    fs::write(path, b"").unwrap();
}

/// What cannot be made anew: all but leaves of the cluster's authorities.
fn precious(home: &Home) -> Vec<String> {
    let mut precious = files(&home.data_dir);
    precious.retain(|file| !DISPENSABLE.contains(&file.as_str()) && (!file.starts_with("pki/") || KEYS.contains(&file.as_str())));
    assert!(KEYS.iter().all(|key| precious.iter().any(|file| file == key)), "{precious:?}");
    for file in [
        "member.json",
        "store/member",
        "store/vote",
        "store/inventory",
        "store/log-00000000000000000000",
    ] {
        assert!(precious.iter().any(|found| found == file), "{file} of {precious:?}");
    }
    precious
}

#[test]
fn a_lone_server_misses_what_is_gone_and_makes_only_leaves_anew() {
    let home = Home::new("alone");
    home.start(&[]).stop();
    let noted = member(&home.data_dir)["keys"].clone();
    assert_eq!(noted.as_object().unwrap().len(), 3, "{noted}");
    for file in precious(&home) {
        refused(&home, &file, remove);
        refused(&home, &file, empty);
    }
    // Another cluster's keys, which are keys.
    let other = Home::new("other");
    other.start(&[]).stop();
    for file in KEYS {
        refused(&home, file, |path| {
            fs::copy(other.data_dir.join(file), path).unwrap();
        });
    }
    refused(&home, "pki/ca.key", |path| {
        for file in ["pki/ca.crt", "pki/ca.key"] {
            fs::copy(
                other.data_dir.join(file),
                path.with_file_name(file.trim_start_matches("pki/")),
            )
            .unwrap();
        }
    });
    // The whole store, or all keys.
    for directory in ["store", "pki"] {
        let hit = copy(&home.data_dir);
        fs::remove_dir_all(hit.path().join(directory)).unwrap();
        let line = home.refused(hit.path());
        assert!(line.contains(&hit.path().join(directory).display().to_string()), "{line}");
    }
    // What an authority can sign again is no loss.
    for file in files(&home.data_dir)
        .iter()
        .filter(|file| file.starts_with("pki/") && !KEYS.contains(&file.as_str()))
    {
        remove(&home.data_dir.join(file));
    }
    home.start(&[]).stop();
    assert_eq!(member(&home.data_dir)["keys"], noted);
}

#[test]
fn a_server_that_joined_misses_what_is_gone() {
    let (first, second) = (Home::new("first"), Home::new("second"));
    let leads = first.start(&[]);
    let token = first.ask(&["token", "create", "--role", "server"]).unwrap();
    let url = format!("https://127.0.0.1:{}", first.port);
    let joined = second.start(&["--join", &url, "--token", token.trim()]);
    let deadline = Instant::now() + Duration::from_secs(60);
    let voters = |home: &Home| {
        let status = home.status()?;
        let members = status["members"].as_array()?;
        Some(members.iter().filter(|member| member["role"] == "Voter").count())
    };
    while voters(&first) != Some(2) {
        assert!(Instant::now() < deadline, "it gets no vote: {:?}", first.status());
        std::thread::sleep(Duration::from_millis(100));
    }
    joined.stop();
    assert_eq!(member(&second.data_dir)["keys"], member(&first.data_dir)["keys"]);
    for file in precious(&second) {
        refused(&second, &file, remove);
        refused(&second, &file, empty);
    }
    // Also while it does not know their fingerprints yet: it was given its keys before it knew who it is.
    for file in KEYS {
        refused(&second, file, |path| {
            forget_keys(path.parent().unwrap().parent().unwrap());
            fs::remove_file(path).unwrap();
        });
    }
    // Nothing of all this was done to itself.
    let again = second.start(&[]);
    again.stop();
    leads.stop();
}

#[test]
fn an_older_data_directory_notes_its_keys() {
    let home = Home::new("older");
    home.start(&[]).stop();
    let noted = member(&home.data_dir)["keys"].clone();
    for file in ["pki/ca.crt", "pki/ca.key", "pki/service-account.key"] {
        refused(&home, file, |path| {
            forget_keys(path.parent().unwrap().parent().unwrap());
            fs::remove_file(path).unwrap();
        });
    }
    forget_keys(&home.data_dir);
    home.start(&[]).stop();
    assert_eq!(member(&home.data_dir)["keys"], noted);
}

#[test]
fn a_first_start_that_was_cut_goes_on_wherever_it_was_cut() {
    let whole = Home::new("cut");
    whole.start(&[]).stop();
    let steps = [
        "member.json",
        "pki/ca.key",
        "pki/ca.crt",
        "pki/service-account.key",
        "pki/apiserver.key",
        "pki/peer-ca.key",
        "pki/peer-ca.crt",
        "store/member",
    ];
    for count in 1..=steps.len() {
        let cut = Home::new("cut");
        for file in &steps[..count] {
            let path = cut.data_dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::copy(whole.data_dir.join(file), path).unwrap();
        }
        forget_keys(&cut.data_dir);
        if count == steps.len() {
            // The store's own file as it is while the store is being made.
            let path = cut.data_dir.join("store/member");
            let text = member(&cut.data_dir)["member"]["id"].to_string();
            let mut bytes = text.clone().into_bytes();
            bytes.extend_from_slice(&crc32c(text.as_bytes()).to_le_bytes());
            fs::write(path, bytes).unwrap();
        }
        cut.start(&[]).stop();
        assert_eq!(member(&cut.data_dir)["member"]["id"], member(&whole.data_dir)["member"]["id"]);
        assert_eq!(member(&cut.data_dir)["keys"].as_object().unwrap().len(), 3, "{count}");
        let again = fs::read(cut.data_dir.join("pki/ca.crt")).unwrap();
        cut.start(&[]).stop();
        assert_eq!(fs::read(cut.data_dir.join("pki/ca.crt")).unwrap(), again);
    }
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82F6_3B78 & 0_u32.wrapping_sub(crc & 1));
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
