//! Who this server is and what its data directory must hold, kept in `member.json` there.
//!
//! Invariant: a server that joined never makes a cluster of its own, and what a cluster cannot do without (its keys, its
//! store, this file) is made by the first start alone: once that is complete, a file that is not there was lost, and the
//! start is refused before anything is changed. A first start that was cut short goes on. What may be made is decided here:
//!
//! | `member.json` | store | keys of a cluster | told to join | meaning                                                   |
//! | ------------- | ----- | ----------------- | ------------ | --------------------------------------------------------- |
//! | complete      |       |                   |              | in use: all keys are there and the same, and so the store |
//! | not complete  | begun |                   |              | from before this table, or cut off: keys came before it   |
//! | not complete  | none  |                   |              | cut off; who joined has its keys already                  |
//! | absent        | no 1  |                   |              | from before there were several servers                    |
//! | absent        | other |                   |              | lost                                                      |
//! | absent        | none  | there             | no           | lost, or never told who it is by those it asked           |
//! | absent        | none  |                   | yes          | joins                                                     |
//! | absent        | none  | none              | no           | new                                                       |

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use trireme_store::{Member, Start};

use crate::files;
use crate::join::client;
use crate::join::token::{Role, Token};
use crate::join::wire::{ClusterSettings, JoinRequest};
use crate::pki::Known;

/// The file that says who this server is.
pub(crate) const MEMBER_FILE: &str = "member.json";
/// Directory of the store, below the data directory.
const STORE: &str = "store";
/// Directory of keys and certificates, below the data directory.
const PKI: &str = "pki";
/// The id of a server from before there were several.
const FIRST_ID: u64 = 1;

/// Why a data directory is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// The file that says whose it is was lost.
    #[error(
        "{} {what}, though its data directory was in use: restore it from a backup; or, if other servers of the cluster live, take \
         this one out there (`trireme member remove NAME`), remove its data directory and start it with --join and a token; a new \
         cluster begins in another --data-dir",
        path.display()
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It is another server's.
    #[error(
        "the data directory {} belongs to server \"{owner}\", this is \"{name}\": start with --node-name {owner}, or with another \
         --data-dir",
        directory.display()
    )]
    Other {
        /// The directory.
        directory: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who asked.
        name: String,
    },
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    member: Member,
    /// Whether it joined a cluster rather than made one.
    joined: bool,
    /// SHA-256 of the public part of each of the cluster's keys, by the name of its file. Empty until the first start is
    /// complete. One that is taken out may be replaced by another, but not by none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    keys: BTreeMap<String, String>,
}

/// What a server needs to know to join.
pub(crate) struct Joining<'a> {
    /// URLs of servers.
    pub(crate) servers: &'a [String],
    /// The token's text.
    pub(crate) token: &'a str,
    /// How long to ask them while none answers.
    pub(crate) within: Duration,
    /// Its own settings, which must be the cluster's.
    pub(crate) settings: ClusterSettings,
}

/// Where a server can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Of its node.
    pub(crate) node: IpAddr,
    /// `host:port` of its peer port.
    pub(crate) peer: String,
    /// URL of its API.
    pub(crate) api: String,
}

/// A server's place in its cluster, and on its disk.
#[derive(Debug)]
pub(crate) struct Place {
    data_dir: PathBuf,
    identity: Identity,
    /// Whether the store was begun, before which the keys were made.
    begun: bool,
}

impl Place {
    /// Finds out who this server is: as it was, newly joined, or the first of a new cluster.
    ///
    /// # Errors
    /// [`PlaceError`], or why it cannot join.
    pub(crate) async fn find(data_dir: &Path, name: &str, addresses: Addresses, joining: Option<Joining<'_>>) -> Result<Self> {
        let path = data_dir.join(MEMBER_FILE);
        let lost = |what| PlaceError::Lost {
            path: path.clone(),
            what,
        };
        let found = match std::fs::read(&path) {
            Ok(bytes) if bytes.is_empty() => return Err(lost("is empty").into()),
            Ok(bytes) => Some(serde_json::from_slice::<Identity>(&bytes).map_err(|error| {
                tracing::debug!(%error, "not a member");
                lost("cannot be read")
            })?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let store = data_dir.join(STORE);
        let owner = trireme_store::owner(&store)?;
        let has_keys = data_dir.join(PKI).join("ca.key").exists();
        let identity = match (found, owner, joining) {
            (Some(mut identity), _, _) => {
                if identity.member.name != name {
                    return Err(PlaceError::Other {
                        directory: data_dir.to_owned(),
                        owner: identity.member.name,
                        name: name.to_owned(),
                    }
                    .into());
                }
                identity.member = member(identity.member.id, name, &addresses);
                identity
            }
            (None, Some(FIRST_ID), _) => Identity::alone(member(FIRST_ID, name, &addresses)),
            (None, Some(_), _) => return Err(lost("is missing").into()),
            (None, None, Some(joining)) => join(data_dir, name, &addresses, joining).await?,
            (None, None, None) if has_keys => return Err(lost("is missing").into()),
            // Exact in every JSON parser.
            (None, None, None) => Identity::alone(member(rand::random_range(2..1 << 53), name, &addresses)),
        };
        let place = Self {
            data_dir: data_dir.to_owned(),
            identity,
            begun: owner.is_some(),
        };
        place.save()?;
        Ok(place)
    }

    fn save(&self) -> Result<()> {
        let path = self.data_dir.join(MEMBER_FILE);
        let text = serde_json::to_vec_pretty(&self.identity)?;
        // A full disk must not keep a server from starting that has nothing new to say.
        if std::fs::read(&path).ok().as_deref() != Some(text.as_slice()) {
            files::write_atomically(&path, &text, 0o600).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// The directory of keys and certificates.
    pub(crate) fn pki(&self) -> PathBuf {
        self.data_dir.join(PKI)
    }

    /// The directory of the store.
    pub(crate) fn store(&self) -> PathBuf {
        self.data_dir.join(STORE)
    }

    /// Who this server is.
    pub(crate) fn member(&self) -> &Member {
        &self.identity.member
    }

    /// How the store begins in an empty directory.
    pub(crate) fn start(&self) -> Start {
        let member = self.identity.member.clone();
        if self.identity.joined {
            Start::Join(member)
        } else {
            Start::Cluster(member)
        }
    }

    /// Whether the first start was complete: everything that it makes must be there.
    pub(crate) fn is_complete(&self) -> bool {
        !self.identity.keys.is_empty()
    }

    /// What is known of the key that a file holds. `from_the_start` says whether clusters always had it.
    pub(crate) fn known(&self, file: &str, from_the_start: bool) -> Known<'_> {
        match self.identity.keys.get(file) {
            Some(fingerprint) => Known::Fingerprint(fingerprint),
            None if self.identity.joined || self.is_complete() || self.begun && from_the_start => Known::Present,
            None => Known::Nothing,
        }
    }

    /// Notes that everything was made, and what the keys are. Where there is no room for it, the next start does so.
    ///
    /// # Errors
    /// When the disk refuses for another reason.
    pub(crate) fn complete(&mut self, keys: impl IntoIterator<Item = (String, String)>) -> Result<()> {
        let mut keys: BTreeMap<String, String> = keys.into_iter().collect();
        keys.append(&mut self.identity.keys);
        self.identity.keys = keys;
        match self.save() {
            Err(error) if is_full(&error) => {
                tracing::warn!("no room to note which keys this server has: {error:#}");
                Ok(())
            }
            other => other,
        }
    }
}

fn is_full(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| {
        matches!(
            cause.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        )
    })
}

impl Identity {
    fn alone(member: Member) -> Self {
        Self {
            member,
            joined: false,
            keys: BTreeMap::new(),
        }
    }
}

fn member(id: u64, name: &str, addresses: &Addresses) -> Member {
    Member {
        id,
        name: name.to_owned(),
        peer: addresses.peer.clone(),
        api: addresses.api.clone(),
        version: crate::KUBERNETES_VERSION.to_owned(),
    }
}

/// Asks the named servers in turn until one lets it in, then keeps the cluster's keys.
async fn join(data_dir: &Path, name: &str, addresses: &Addresses, joining: Joining<'_>) -> Result<Identity> {
    let token: Token = joining.token.parse().context("--token")?;
    let until = tokio::time::Instant::now() + joining.within;
    let answer = 'answered: loop {
        let mut last = None;
        for server in joining.servers {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let request = JoinRequest {
                role: Role::Server,
                name: name.to_owned(),
                version: crate::KUBERNETES_VERSION.to_owned(),
                time_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
                address: addresses.node,
                settings: Some(joining.settings.clone()),
                peer: Some(addresses.peer.clone()),
                api: Some(addresses.api.clone()),
            };
            match client::join(server, &token, &request).await {
                Ok(answer) => break 'answered answer,
                Err(failure) if failure.is_final() => return Err(failure.into()),
                Err(failure) => last = Some(failure),
            }
        }
        let Some(last) = last else { bail!("--join names no server") };
        if tokio::time::Instant::now() >= until {
            return Err(last.into());
        }
        tracing::info!(
            reason = format!("{:#}", anyhow::Error::from(last)),
            "cannot join yet; asking again"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let grant = answer.server.context("the server's answer to joining holds no keys")?;
    let pki = data_dir.join(PKI);
    files::private_directory(&pki).with_context(|| format!("making {}", pki.display()))?;
    for (file, text) in &grant.pki {
        let plain = !file.contains('/') && !file.starts_with('.');
        anyhow::ensure!(plain, "the server's answer to joining names a file \"{file}\"");
        files::write_atomically(&pki.join(file), text.as_bytes(), 0o600).with_context(|| format!("writing {file}"))?;
    }
    tracing::info!(name, member = grant.member.id, "joined the cluster");
    Ok(Identity {
        joined: true,
        ..Identity::alone(grant.member)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        Addresses {
            node: IpAddr::from([192, 0, 2, 1]),
            peer: "192.0.2.1:2380".into(),
            api: "https://192.0.2.1:6443".into(),
        }
    }

    async fn find(directory: &Path) -> Result<Place> {
        Place::find(directory, "a", addresses(), None).await
    }

    /// A file with its checksum behind it, as the store writes small ones.
    fn begin_store(directory: &Path, member: u64) {
        let text = member.to_string();
        let mut bytes = text.clone().into_bytes();
        bytes.extend_from_slice(&crc32c(text.as_bytes()).to_le_bytes());
        std::fs::create_dir_all(directory.join(STORE)).unwrap();
        std::fs::write(directory.join(STORE).join("member"), bytes).unwrap();
    }

    /// CRC-32C, bit by bit.
    fn crc32c(bytes: &[u8]) -> u32 {
        let step = |crc: u32, _| (crc >> 1) ^ (0x82F6_3B78 & 0_u32.wrapping_sub(crc & 1));
        !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
    }

    fn what(found: Result<Place>, directory: &Path) -> &'static str {
        let error = found.expect_err("it was lost");
        match error.downcast_ref::<PlaceError>() {
            Some(PlaceError::Lost { path, what }) if *path == directory.join(MEMBER_FILE) => what,
            _ => panic!("{error:#}"),
        }
    }

    #[tokio::test]
    async fn a_new_server_stays_who_it_is_and_knows_its_keys_once_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let first = find(directory.path()).await.unwrap();
        assert!(first.member().id > FIRST_ID && matches!(first.start(), Start::Cluster(_)));
        assert_eq!((first.is_complete(), first.known("ca", true)), (false, Known::Nothing));
        // Cut off at any step before the store: what is not there is made.
        std::fs::create_dir(directory.path().join(PKI)).unwrap();
        std::fs::write(directory.path().join(PKI).join("ca.key"), "a key").unwrap();
        let mut again = find(directory.path()).await.unwrap();
        assert_eq!(again.member(), first.member());
        assert_eq!(again.known("service-account", true), Known::Nothing);
        // The store came after the keys that clusters always had.
        begin_store(directory.path(), first.member().id);
        let begun = find(directory.path()).await.unwrap();
        assert_eq!(
            (begun.known("ca", true), begun.known("peer-ca", false)),
            (Known::Present, Known::Nothing)
        );
        again.complete([("ca".to_owned(), "1234".to_owned())]).unwrap();
        let complete = find(directory.path()).await.unwrap();
        assert!(complete.is_complete());
        assert_eq!(complete.known("ca", true), Known::Fingerprint("1234"));
        assert_eq!(complete.known("peer-ca", false), Known::Present);
        // What is known stays so, whatever is found.
        let mut complete = complete;
        complete
            .complete([("ca".to_owned(), "5678".to_owned()), ("peer-ca".to_owned(), "9".to_owned())])
            .unwrap();
        let more = find(directory.path()).await.unwrap();
        assert_eq!(more.known("ca", true), Known::Fingerprint("1234"));
        assert_eq!(more.known("peer-ca", false), Known::Fingerprint("9"));
        let other = Place::find(directory.path(), "b", addresses(), None).await.unwrap_err();
        assert!(other.to_string().contains("start with --node-name a"), "{other:#}");
    }

    #[tokio::test]
    async fn a_file_that_says_whose_it_is_is_missed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(MEMBER_FILE);
        find(directory.path()).await.unwrap();
        for (text, wanted) in [("", "is empty"), ("{", "cannot be read"), ("{}", "cannot be read")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(what(find(directory.path()).await, directory.path()), wanted);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "a refusal changes nothing");
        }
        std::fs::remove_file(&path).unwrap();
        // Keys without anybody whose they are, then a store of somebody.
        std::fs::create_dir(directory.path().join(PKI)).unwrap();
        std::fs::write(directory.path().join(PKI).join("ca.key"), "a key").unwrap();
        assert_eq!(what(find(directory.path()).await, directory.path()), "is missing");
        begin_store(directory.path(), 77);
        assert_eq!(what(find(directory.path()).await, directory.path()), "is missing");
        assert!(!path.exists(), "a refusal makes nothing");
        // One from before there were several servers had no such file.
        begin_store(directory.path(), FIRST_ID);
        let old = find(directory.path()).await.unwrap();
        assert_eq!((old.member().id, old.known("ca", true)), (FIRST_ID, Known::Present));
    }
}
