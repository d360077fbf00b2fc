//! LIST: one consistent snapshot, whole or in pages.
//!
//! Invariant: the items of one answer are of one revision, in key order.

use trireme_api::{Object, Status};
use trireme_store::{Page, ReadError};

use super::continuation::Continuation;
use super::options::{ListOptions, revision};
use super::read::too_large;
use super::selection::Selection;
use super::{Target, rules};
use crate::server::ApiServer;

/// The answer to a list.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Revision of the snapshot.
    pub revision: u64,
    /// The items, in the version asked for.
    pub items: Vec<Object>,
    /// Token for the next page, empty on the last.
    pub continuation: String,
    /// How many items come after this page, where that is known.
    pub remaining: Option<usize>,
}

/// A list that failed; an expired continuation comes with a token that works.
#[derive(Debug)]
pub struct ListFailure {
    /// The status.
    pub status: Box<Status>,
    /// `metadata.continue` of the status.
    pub continuation: String,
}

impl From<Status> for ListFailure {
    fn from(status: Status) -> Self {
        Self {
            status: Box::new(status),
            continuation: String::new(),
        }
    }
}

/// Items fetched at once while looking for matches of a selector.
const CHUNK: usize = 512;

const STALE_CONTINUE: &str = "The provided continue parameter is too old to display a consistent list result. You can start \
    a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
    results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
    deleted between the time the first chunk was returned and now may show up in the list.";

/// Which snapshot a list means.
struct Snapshot {
    at: Option<u64>,
    after: Option<String>,
    token: Option<Continuation>,
}

impl ApiServer {
    /// Lists a collection.
    ///
    /// # Errors
    /// 400 and 410 as upstream, 504 for revisions in the future.
    pub async fn list(&self, target: &Target, options: &ListOptions, selection: &Selection) -> Result<Listing, ListFailure> {
        let prefix = target.prefix();
        let snapshot = self.snapshot(options, &prefix).await?;
        let limit = match usize::try_from(options.limit) {
            Ok(limit) if limit > 0 && options.resource_version != "0" => Some(limit),
            _ => None,
        };
        let mut listing = if selection.is_everything() {
            let page = self.page(&prefix, snapshot.after.as_deref(), limit, &snapshot)?;
            let last = page.items.last().map(|(key, _)| key.to_string());
            Listing {
                revision: page.revision,
                continuation: token(&prefix, last.as_deref(), page.remaining, page.revision),
                remaining: (page.remaining > 0).then_some(page.remaining),
                items: page.items.into_iter().map(|(_, object)| object).collect(),
            }
        } else if let Some(name) = only_name(target, options, selection) {
            self.list_one(target.key_of(name).as_ref(), &snapshot, selection)?
        } else {
            self.list_selected(&prefix, limit, &snapshot, selection)?
        };
        if listing
            .items
            .first()
            .is_some_and(|_| rules::converts(target.row) || target.row.is_custom())
        {
            for item in &mut listing.items {
                let written = item.header().resource_version;
                *item = rules::to_served(target.row, target.custom.as_deref(), item.clone(), written)?;
            }
            if let Some(served) = target.custom.as_deref().filter(|served| served.webhook.is_some()) {
                self.convert_all(served, listing.items.iter_mut().collect(), true).await?;
            }
        }
        Ok(listing)
    }

    /// The object of one key, where it is selected: looked up, and like upstream without a next page.
    fn list_one(&self, key: &str, snapshot: &Snapshot, selection: &Selection) -> Result<Listing, ListFailure> {
        // Of all keys that begin so the key itself comes first.
        let page = self.page(key, None, Some(1), snapshot)?;
        let found = page
            .items
            .into_iter()
            .filter(|(found, object)| found.as_ref() == key && selection.matches(object));
        Ok(Listing {
            revision: page.revision,
            items: found.map(|(_, object)| object).collect(),
            ..Listing::default()
        })
    }

    fn list_selected(
        &self,
        prefix: &str,
        limit: Option<usize>,
        snapshot: &Snapshot,
        selection: &Selection,
    ) -> Result<Listing, ListFailure> {
        let mut listing = Listing::default();
        let mut after = snapshot.after.clone();
        let mut at = snapshot.at;
        loop {
            let chunk = limit.map(|_| CHUNK);
            let page = self.page(
                prefix,
                after.as_deref(),
                chunk,
                &Snapshot {
                    at,
                    after: None,
                    token: snapshot.token.clone(),
                },
            )?;
            listing.revision = page.revision;
            at = Some(page.revision);
            let count = page.items.len();
            for (index, (key, object)) in page.items.into_iter().enumerate() {
                if selection.matches(&object) {
                    listing.items.push(object);
                    if limit == Some(listing.items.len()) {
                        let left = page.remaining + count - index - 1;
                        listing.continuation = token(prefix, Some(&key), left, page.revision);
                        return Ok(listing);
                    }
                }
                if index + 1 == count {
                    after = Some(key.to_string());
                }
            }
            if page.remaining == 0 || count == 0 {
                return Ok(listing);
            }
        }
    }

    fn page(&self, prefix: &str, after: Option<&str>, limit: Option<usize>, snapshot: &Snapshot) -> Result<Page, ListFailure> {
        let oldest_text = "The resourceVersion for the provided list is too old.";
        self.store
            .range(prefix, after, limit, snapshot.at)
            .map_err(|error| match (error, &snapshot.token) {
                (ReadError::Compacted { .. }, Some(token)) => ListFailure {
                    status: Box::new(Status::expired(STALE_CONTINUE)),
                    continuation: token.inconsistent(),
                },
                (ReadError::Compacted { .. }, None) => Status::expired(oldest_text).into(),
                (ReadError::Future { asked, current }, _) => too_large(asked, current).into(),
            })
    }

    async fn snapshot(&self, options: &ListOptions, prefix: &str) -> Result<Snapshot, ListFailure> {
        if !options.continuation.is_empty() {
            let token = Continuation::parse(&options.continuation)?;
            if !options.resource_version.is_empty() && options.resource_version != "0" {
                let text = "specifying resource version is not allowed when using continue";
                return Err(Status::bad_request(text).into());
            }
            let at = u64::try_from(token.revision).ok().filter(|revision| *revision > 0);
            if at.is_none() {
                self.barrier().await?;
            }
            return Ok(Snapshot {
                at,
                after: Some(token.after_key(prefix)),
                token: Some(token),
            });
        }
        let wanted =
            revision(&options.resource_version).map_err(|why| Status::bad_request(format!("invalid resource version: {why}")))?;
        let exact = options.version_match == "Exact" || (options.version_match.is_empty() && options.limit > 0 && wanted > 0);
        match (options.resource_version.as_str(), wanted) {
            ("", _) => self.barrier().await?,
            (_, 0) => {}
            _ => self.wait_for(wanted).await?,
        }
        Ok(Snapshot {
            at: exact.then_some(wanted),
            after: None,
            token: None,
        })
    }
}

/// The name of the one object that a list can find, where it says so and asks one namespace (or none is there).
fn only_name<'a>(target: &Target, options: &ListOptions, selection: &'a Selection) -> Option<&'a str> {
    let one_place = !target.row.namespaced || !target.namespace.is_empty();
    let name = selection.only_name()?;
    (one_place && options.continuation.is_empty() && !name.is_empty()).then_some(name)
}

fn token(prefix: &str, last: Option<&str>, left: usize, revision: u64) -> String {
    match last {
        Some(last) if left > 0 => {
            let relative = last.strip_prefix(prefix).unwrap_or(last);
            Continuation::after(relative, i64::try_from(revision).unwrap_or(i64::MAX))
        }
        _ => String::new(),
    }
}
