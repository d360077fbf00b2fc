//! What a check found, in words that lead to the place.

/// A contradiction between what the store promises and what was seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// No order of the operations on a key explains their answers.
    #[error(
        "not linearizable at key {key:?}: no order explains {operation}\n  the key could hold: {states}\n  before it: {before}"
    )]
    NotLinearizable {
        /// The key.
        key: String,
        /// The first operation that no order explains.
        operation: String,
        /// What the key may have held when it had to take effect.
        states: String,
        /// The operations that came last before it.
        before: String,
    },
    /// The search for an order of operations was given up.
    #[error("key {key:?} is too tangled to judge: more than {configurations} possible states at {operation}")]
    Undecided {
        /// The key.
        key: String,
        /// Where it was given up.
        operation: String,
        /// The bound.
        configurations: usize,
    },
    /// An acknowledged write is not there.
    #[error("acknowledged write lost: {operation}; but {evidence}")]
    Lost {
        /// The write.
        operation: String,
        /// What shows that it is not there.
        evidence: String,
    },
    /// A listing is not of one moment.
    #[error("the listing of {server} at revision {revision} is no snapshot: {what}")]
    TornListing {
        /// Who showed it.
        server: String,
        /// Of which revision it says to be.
        revision: u64,
        /// What does not fit.
        what: String,
    },
    /// Two changes have one revision.
    #[error("revision {revision} was given twice: {first}; {second}")]
    RevisionReused {
        /// The revision.
        revision: u64,
        /// One change.
        first: String,
        /// The other one.
        second: String,
    },
    /// A later change has an earlier revision.
    #[error("the revision went back: {earlier} was over before {later} began")]
    RevisionWentBack {
        /// What ended first.
        earlier: String,
        /// What began later.
        later: String,
    },
    /// One revision of a key has two values.
    #[error("revision {revision} of key {key:?} is {first} by {by_first}, but {second} by {by_second}")]
    TwoValues {
        /// The revision.
        revision: u64,
        /// The key.
        key: String,
        /// One value.
        first: String,
        /// Who told of it.
        by_first: String,
        /// The other one.
        second: String,
        /// Who told of that.
        by_second: String,
    },
    /// Something was seen that nobody did.
    #[error("nobody made revision {revision} of key {key:?} {what}, but {by} shows it")]
    FromNowhere {
        /// The revision.
        revision: u64,
        /// The key.
        key: String,
        /// What it is.
        what: String,
        /// Who showed it.
        by: String,
    },
    /// A watch told of a revision after a later one.
    #[error("watch {watch} at {server} told of revision {revision} of {key:?} after revision {after}")]
    OutOfOrder {
        /// Which.
        watch: u64,
        /// Who served it.
        server: String,
        /// The late revision.
        revision: u64,
        /// Its key.
        key: String,
        /// What was told before.
        after: u64,
    },
    /// A watch told of a change twice.
    #[error("watch {watch} at {server} told of revision {revision} of {key:?} twice")]
    Repeated {
        /// Which.
        watch: u64,
        /// Who served it the second time.
        server: String,
        /// The revision.
        revision: u64,
        /// The key.
        key: String,
    },
    /// A watch told of later revisions, but not of this one.
    #[error(
        "watch {watch} missed revision {revision} of {key:?}: it went from {after} to {next} at {server}; known from {known}"
    )]
    Missed {
        /// Which.
        watch: u64,
        /// Who served it.
        server: String,
        /// The missing revision.
        revision: u64,
        /// Its key.
        key: String,
        /// The last revision told before.
        after: u64,
        /// The first one told after.
        next: u64,
        /// How it is known.
        known: String,
    },
    /// A watch did not go on where it should have.
    #[error("watch {watch} was resumed at {server} behind revision {after}, and was told of revision {revision}")]
    WronglyResumed {
        /// Which.
        watch: u64,
        /// Who served it then.
        server: String,
        /// Behind which revision it asked to go on.
        after: u64,
        /// What it was told.
        revision: u64,
    },
    /// A watch calls a change by what it cannot be.
    #[error("watch {watch} at {server} calls revision {revision} of {key:?} {change}, but the key was {before} before")]
    WrongKind {
        /// Which.
        watch: u64,
        /// Who served it.
        server: String,
        /// The revision.
        revision: u64,
        /// The key.
        key: String,
        /// What it calls it.
        change: String,
        /// What the key was.
        before: String,
    },
    /// A bookmark promised what had not been delivered.
    #[error("watch {watch} at {server} got a bookmark at {bookmark} ahead of revision {revision} of {key:?}")]
    BookmarkAhead {
        /// Which.
        watch: u64,
        /// Who served it.
        server: String,
        /// The bookmark's revision.
        bookmark: u64,
        /// The revision that was not delivered by then.
        revision: u64,
        /// Its key.
        key: String,
    },
    /// A bookmark lies before what was told already.
    #[error("watch {watch} at {server} got a bookmark at {bookmark} after revision {after}")]
    BookmarkBack {
        /// Which.
        watch: u64,
        /// Who served it.
        server: String,
        /// The bookmark's revision.
        bookmark: u64,
        /// What was told before.
        after: u64,
    },
    /// Two watches tell different things of one revision.
    #[error("watches {first} and {second} disagree on revision {revision} of {key:?}: {by_first}, and {by_second}")]
    Disagree {
        /// One watch.
        first: u64,
        /// The other one.
        second: u64,
        /// The revision.
        revision: u64,
        /// The key.
        key: String,
        /// What one says.
        by_first: String,
        /// What the other one says.
        by_second: String,
    },
}
