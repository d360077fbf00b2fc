//! The last form of a response: records that may stand in any order are turned, and what does not fit is cut between
//! records.
//!
//! Invariant: an alias stays before what it leads to, and a message ends where its last record ends. Tests over real
//! sockets hold both.

use hickory_proto::rr::Record;

use crate::answer::Response;

/// Turns the order within each run of records of one name and type, so that clients that take the first are spread.
pub(crate) fn turn(records: &mut [Record], by: usize) {
    let same = |left: &Record, right: &Record| left.record_type() == right.record_type() && left.name == right.name;
    for run in records.chunk_by_mut(same) {
        run.rotate_left(by % run.len());
    }
}

/// Leaves out what does not fit, whole records from the end; `fits` tells whether what is left of them does. True if
/// something was left out that the asker needs, which is all but the additional section (RFC 2181, 9).
pub(crate) fn fit(response: &mut Response, fits: impl Fn(&Kept<'_>) -> bool) -> bool {
    let whole = [&response.answers, &response.authorities, &response.additionals].map(Vec::len);
    let all = whole.iter().sum();
    if fits(&Kept::of(response, all)) {
        return false;
    }
    // The most that fits lies in between.
    let (mut fitting, mut over) = (0, all);
    while fitting + 1 < over {
        let middle = fitting.midpoint(over);
        if fits(&Kept::of(response, middle)) {
            fitting = middle;
        } else {
            over = middle;
        }
    }
    let left = Kept::of(response, fitting);
    let [answers, authorities, additionals] = [left.answers, left.authorities, left.additionals].map(<[Record]>::len);
    response.answers.truncate(answers);
    response.authorities.truncate(authorities);
    response.additionals.truncate(additionals);
    answers < whole[0] || authorities < whole[1]
}

/// The first records of a response.
pub(crate) struct Kept<'a> {
    pub(crate) answers: &'a [Record],
    pub(crate) authorities: &'a [Record],
    pub(crate) additionals: &'a [Record],
}

impl<'a> Kept<'a> {
    pub(crate) fn of(response: &'a Response, count: usize) -> Self {
        let answers = &response.answers[..count.min(response.answers.len())];
        let count = count - answers.len();
        let authorities = &response.authorities[..count.min(response.authorities.len())];
        let count = count - authorities.len();
        let additionals = &response.additionals[..count.min(response.additionals.len())];
        Self {
            answers,
            authorities,
            additionals,
        }
    }
}
