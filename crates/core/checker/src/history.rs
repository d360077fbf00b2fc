//! A history: records of all recorders, put together and taken apart into operations, watches and listings.
//!
//! Invariant: nothing in it is judged here; records of one watch keep the order in which they were added.

use std::collections::BTreeMap;

use crate::record::{Change, Listing, Operation, Record, Step, WatchStep};

/// Everything that was recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// What clients asked for.
    pub operations: Vec<Operation>,
    /// What happened to watches, each in its order.
    pub watches: BTreeMap<u64, Vec<WatchStep>>,
    /// What servers showed as a whole.
    pub listings: Vec<Listing>,
}

/// A line that is no record.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of the history is no record: {source}")]
pub struct ParseError {
    /// Counted from 1.
    line: usize,
    source: serde_json::Error,
}

impl History {
    /// Adds one record.
    pub fn push(&mut self, record: Record) {
        match record {
            Record::Operation(operation) => self.operations.push(operation),
            Record::Watch(step) => self.watches.entry(step.watch).or_default().push(step),
            Record::Listing(listing) => self.listings.push(listing),
        }
    }

    /// Adds the records of a file of JSON lines; empty lines are skipped. Records of one watch belong in one file.
    ///
    /// # Errors
    /// When a line is no record; those before it were added.
    pub fn read_lines(&mut self, text: &str) -> Result<(), ParseError> {
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let record = serde_json::from_str(line).map_err(|source| ParseError { line: at + 1, source })?;
            self.push(record);
        }
        Ok(())
    }

    /// All records as JSON lines.
    #[must_use]
    pub fn to_lines(&self) -> String {
        let operations = self.operations.iter().cloned().map(Record::Operation);
        let watches = self.watches.values().flatten().cloned().map(Record::Watch);
        let listings = self.listings.iter().cloned().map(Record::Listing);
        let mut text = String::new();
        for record in operations.chain(watches).chain(listings) {
            text.push_str(&serde_json::to_string(&record).expect("a record is plain data"));
            text.push('\n');
        }
        text
    }

    /// The watches, taken apart.
    #[must_use]
    pub fn watches(&self) -> Vec<Watch<'_>> {
        self.watches.iter().map(|(id, steps)| Watch::new(*id, steps)).collect()
    }
}

/// One watch: what it covered without a relist in between is a segment.
#[derive(Debug)]
pub struct Watch<'a> {
    /// Its number.
    pub id: u64,
    /// Its segments in order.
    pub segments: Vec<Segment<'a>>,
}

/// A stretch of a watch that promises to miss nothing, over however many connections.
#[derive(Debug)]
pub struct Segment<'a> {
    /// Keys that begin with this.
    pub prefix: &'a str,
    /// Everything after this revision is to come.
    pub after: u64,
    /// What came.
    pub deliveries: Vec<Delivery<'a>>,
    /// What the client waited for at the end; 0 where it did not.
    pub through: u64,
}

/// What a watch got, with who served it.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Who served it.
    pub server: &'a str,
    /// What it is.
    pub what: Delivered<'a>,
}

/// An event, a bookmark, or another connection.
#[derive(Clone, Copy, Debug)]
pub enum Delivered<'a> {
    /// A change.
    Event(WatchEvent<'a>),
    /// A bookmark at a revision.
    Bookmark(u64),
    /// Another connection, asked to go on behind a revision.
    Resumed(u64),
}

/// A change as a watch told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchEvent<'a> {
    /// Its revision.
    pub revision: u64,
    /// Its key.
    pub key: &'a str,
    /// What happened.
    pub change: Change,
    /// The value.
    pub value: &'a str,
}

impl<'a> Watch<'a> {
    fn new(id: u64, steps: &'a [WatchStep]) -> Self {
        let mut segments: Vec<Segment<'a>> = Vec::new();
        for step in steps {
            let what = match &step.step {
                Step::Opened { prefix, after } => {
                    segments.push(Segment {
                        prefix,
                        after: *after,
                        deliveries: Vec::new(),
                        through: 0,
                    });
                    continue;
                }
                Step::Expired => continue,
                Step::Ended { through } => {
                    if let Some(segment) = segments.last_mut() {
                        segment.through = *through;
                    }
                    continue;
                }
                Step::Event {
                    revision,
                    key,
                    change,
                    value,
                } => Delivered::Event(WatchEvent {
                    revision: *revision,
                    key,
                    change: *change,
                    value,
                }),
                Step::Bookmark { revision } => Delivered::Bookmark(*revision),
                Step::Resumed { after } => Delivered::Resumed(*after),
            };
            if let Some(segment) = segments.last_mut() {
                let server = step.server.as_str();
                segment.deliveries.push(Delivery { server, what });
            }
        }
        Self { id, segments }
    }
}

impl<'a> Segment<'a> {
    /// The events in the order in which they came.
    pub fn events(&self) -> impl Iterator<Item = (&'a str, WatchEvent<'a>)> + '_ {
        self.deliveries.iter().filter_map(|delivery| match delivery.what {
            Delivered::Event(event) => Some((delivery.server, event)),
            Delivered::Bookmark(_) | Delivered::Resumed(_) => None,
        })
    }

    /// The highest revision that this stretch told of.
    #[must_use]
    pub fn told(&self) -> u64 {
        let revisions = self.deliveries.iter().map(|delivery| match delivery.what {
            Delivered::Event(event) => event.revision,
            Delivered::Bookmark(revision) => revision,
            Delivered::Resumed(_) => 0,
        });
        revisions.max().unwrap_or(0).max(self.after)
    }
}
