//! Container logs in CRI's format: from the end, by time, following, through rotation.
//!
//! Invariant: at most one chunk of a log is in memory per reader; a slow client slows its reader and nobody else.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use trireme_pod::status::ID_SCHEME;

use super::Context;
use super::routes::{Answer, Query, Refusal, find};
use crate::shared::PodView;

const CHUNK: usize = 32 * 1024;
/// Without a change, a follower looks this often whether the container still runs.
const LOOK: Duration = Duration::from_secs(1);

/// What of a log to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Options {
    follow: bool,
    timestamps: bool,
    tail: Option<usize>,
    since: Option<Timestamp>,
    limit: Option<u64>,
    stream: Option<&'static [u8]>,
}

impl Options {
    fn of(query: &Query) -> Result<Self, Refusal> {
        let bad = |name: &str, value: &str| Refusal(StatusCode::BAD_REQUEST, format!("invalid value for {name}: \"{value}\""));
        let number = |name: &str| -> Result<Option<u64>, Refusal> {
            query
                .get(name)
                .filter(|text| !text.is_empty())
                .map(|text| text.parse().map_err(|_| bad(name, text)))
                .transpose()
        };
        let since_time = query
            .get("sinceTime")
            .filter(|text| !text.is_empty())
            .map(|text| text.parse::<Timestamp>().map_err(|_| bad("sinceTime", text)))
            .transpose()?;
        let since_seconds = number("sinceSeconds")?.and_then(|seconds| {
            Timestamp::now()
                .saturating_sub(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)))
                .ok()
        });
        Ok(Self {
            follow: query.flag(&["follow"]),
            timestamps: query.flag(&["timestamps"]),
            tail: number("tailLines")?.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
            since: since_time.or(since_seconds),
            limit: number("limitBytes")?,
            stream: match query.get("stream") {
                Some("Stdout") => Some(b"stdout"),
                Some("Stderr") => Some(b"stderr"),
                _ => None,
            },
        })
    }
}

/// GET `/containerLogs/{namespace}/{pod}/{container}`.
pub(super) fn serve(
    context: Arc<Context>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Result<Answer, Refusal> {
    let options = Options::of(query)?;
    let view = find(&context, namespace, pod)?;
    let id = which(&view, pod, container, query.flag(&["previous"]))?;
    let run = view.containers.iter().find(|run| run.id == id);
    let run = run.ok_or_else(|| {
        Refusal(
            StatusCode::BAD_REQUEST,
            format!("unable to retrieve container logs for {ID_SCHEME}{id}"),
        )
    })?;
    let path = run.log_path.clone();
    let (sender, receiver) = mpsc::channel::<Bytes>(4);
    let uid = view.pod.metadata.uid.clone().unwrap_or_default();
    let runs = move |context: &Context| {
        context
            .shared
            .pods
            .read()
            .get(&uid)
            .is_some_and(|view| view.containers.iter().any(|run| run.id == id && run.running))
    };
    tokio::spawn(async move {
        if let Err(error) = copy(&context, &path, &options, runs, &sender).await {
            tracing::debug!("log {}: {error}", path.display());
        }
    });
    let body = StreamBody::new(ReceiverStream::new(receiver).map(|chunk| Ok(Frame::data(chunk))));
    let mut response = Response::new(body.boxed_unsync());
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// The id of the run whose log is meant (pkg/kubelet `validateContainerLogStatus`).
fn which(view: &PodView, pod: &str, container: &str, previous: bool) -> Result<String, Refusal> {
    let refuse = |text: String| Err(Refusal(StatusCode::BAD_REQUEST, text));
    let bare = |id: &str| id.strip_prefix(ID_SCHEME).unwrap_or(id).to_owned();
    let Some(status) = view.statuses.iter().find(|status| status.name == container) else {
        return refuse(format!("container \"{container}\" in pod \"{pod}\" is not available"));
    };
    let ended = |state: &Option<ContainerState>| {
        state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
            .and_then(|ended| ended.container_id.clone())
            .filter(|id| !id.is_empty())
    };
    if previous {
        return match ended(&status.last_state) {
            Some(id) => Ok(bare(&id)),
            None => refuse(format!(
                "previous terminated container \"{container}\" in pod \"{pod}\" not found"
            )),
        };
    }
    if is_running(status) {
        return Ok(bare(status.container_id.as_deref().unwrap_or_default()));
    }
    if let Some(id) = ended(&status.state).or_else(|| ended(&status.last_state)) {
        return Ok(bare(&id));
    }
    let reason = status
        .state
        .as_ref()
        .and_then(|state| state.waiting.as_ref())
        .and_then(|waiting| waiting.reason.as_deref());
    match reason.unwrap_or_default() {
        "ErrImagePull" => refuse(format!(
            "container \"{container}\" in pod \"{pod}\" is waiting to start: image can't be pulled"
        )),
        "ImagePullBackOff" => refuse(format!(
            "container \"{container}\" in pod \"{pod}\" is waiting to start: trying and failing to pull image"
        )),
        "" => refuse(format!("container \"{container}\" in pod \"{pod}\" is not available")),
        reason => refuse(format!(
            "container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}"
        )),
    }
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

async fn copy(
    context: &Context,
    path: &Path,
    options: &Options,
    runs: impl Fn(&Context) -> bool,
    sender: &mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let mut changes = if options.follow {
        path.parent().and_then(|directory| context.follower.watch(directory))
    } else {
        None
    };
    let mut files: VecDeque<PathBuf> = rotated(path).into();
    files.push_back(path.to_path_buf());
    let (skip, mut offset) = match options.tail {
        Some(lines) => tail_start(files.make_contiguous(), lines)?,
        None => (0, 0),
    };
    files.drain(..skip);
    let mut filter = Filter::new(options.clone());
    while let Some(next) = files.pop_front() {
        let is_current = files.is_empty();
        let mut file = match File::open(&next) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_current => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !options.follow => return Ok(()),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(std::mem::take(&mut offset)))?;
        let mut pending = Vec::new();
        loop {
            // Asked before reading: what was written before the end is seen then.
            let running = options.follow && is_current && runs(context);
            if !drain(&mut file, &mut pending, &mut filter, sender).await? {
                return Ok(());
            }
            if !is_current {
                break;
            }
            if !options.follow {
                return Ok(());
            }
            if was_replaced(&file, path) {
                // Rotation came between the last read and now; what is left of the old file comes first.
                drain(&mut file, &mut pending, &mut filter, sender).await?;
                files.push_back(path.to_path_buf());
                break;
            }
            if !running {
                return Ok(());
            }
            tokio::select! {
                () = async {
                    match &mut changes {
                        Some(changes) => changes.changed().await,
                        None => tokio::time::sleep(LOOK / 4).await,
                    }
                } => {}
                () = tokio::time::sleep(LOOK) => {}
                () = sender.closed() => return Ok(()),
            }
        }
    }
    Ok(())
}

/// Reads to the end of the file as it is. False when there is nothing more to send.
async fn drain(file: &mut File, pending: &mut Vec<u8>, filter: &mut Filter, sender: &mpsc::Sender<Bytes>) -> io::Result<bool> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok(true);
        }
        pending.extend_from_slice(&chunk[..count]);
        let Some(end) = pending.iter().rposition(|byte| *byte == b'\n') else {
            continue;
        };
        let mut out = Vec::with_capacity(end);
        let more = pending[..=end]
            .split_inclusive(|byte| *byte == b'\n')
            .all(|line| filter.line(line, &mut out));
        pending.drain(..=end);
        if !out.is_empty() && sender.send(out.into()).await.is_err() {
            return Ok(false);
        }
        if !more {
            return Ok(false);
        }
    }
}

struct Filter {
    options: Options,
    left: Option<u64>,
    /// Whether the last part shown did not end its line: then the next one gets no timestamp.
    within_line: bool,
}

impl Filter {
    fn new(options: Options) -> Self {
        Self {
            left: options.limit,
            options,
            within_line: false,
        }
    }

    /// Adds what is to be shown of a line; false when the limit is reached.
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(entry) = Entry::parse(line) else { return true };
        if let Some(since) = self.options.since
            && std::str::from_utf8(entry.time)
                .ok()
                .and_then(|text| text.parse::<Timestamp>().ok())
                .is_some_and(|time| time < since)
        {
            return true;
        }
        if self.options.stream.is_some_and(|stream| stream != entry.stream) {
            return true;
        }
        let start = out.len();
        if self.options.timestamps && !self.within_line {
            out.extend_from_slice(entry.time);
            out.push(b' ');
        }
        out.extend_from_slice(entry.content);
        if !entry.partial {
            out.push(b'\n');
        }
        self.within_line = entry.partial;
        match &mut self.left {
            None => true,
            Some(left) => {
                let added = u64::try_from(out.len() - start).unwrap_or(u64::MAX);
                if added >= *left {
                    out.truncate(start + usize::try_from(*left).unwrap_or(0));
                    *left = 0;
                    return false;
                }
                *left -= added;
                true
            }
        }
    }
}

/// `2026-01-01T00:00:00.000000000Z stdout F content`.
struct Entry<'a> {
    time: &'a [u8],
    stream: &'a [u8],
    partial: bool,
    content: &'a [u8],
}

impl<'a> Entry<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let (time, stream, tags) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self {
            time,
            stream,
            partial: tags.split(|byte| *byte == b':').next() == Some(b"P"),
            content: fields.next().unwrap_or_default(),
        })
    }
}

/// Earlier parts of a log (`0.log.<time>`), oldest first; packed ones are left out.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| {
            let own = entry.file_name();
            own.to_str()
                .is_some_and(|own| own.starts_with(&prefix) && !own.ends_with(".gz") && !own.ends_with(".tmp"))
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// The file and the offset in it where the last lines begin.
fn tail_start(files: &[PathBuf], lines: usize) -> io::Result<(usize, u64)> {
    let mut wanted = lines;
    for (index, path) in files.iter().enumerate().rev() {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        if wanted == 0 {
            return Ok((index, length));
        }
        let mut end = length;
        let mut chunk = vec![0; CHUNK];
        while end > 0 {
            let begin = end.saturating_sub(CHUNK as u64);
            let part = &mut chunk[..usize::try_from(end - begin).unwrap_or(CHUNK)];
            file.seek(SeekFrom::Start(begin))?;
            file.read_exact(part)?;
            for (at, _) in part.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
                let position = begin + at as u64 + 1;
                // The newline that ends the last line begins none.
                if position == length {
                    continue;
                }
                wanted -= 1;
                if wanted == 0 {
                    return Ok((index, position));
                }
            }
            end = begin;
        }
        // The first line of the file has no newline before it.
        if length > 0 {
            wanted -= 1;
        }
        if wanted == 0 {
            return Ok((index, 0));
        }
    }
    Ok((0, 0))
}

fn was_replaced(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) != (named.dev(), named.ino()),
        _ => false,
    }
}

/// The last lines of a log as bare text, for termination messages.
pub(crate) fn tail_text(path: &Path, lines: usize, bytes: usize) -> String {
    let files = [path.to_path_buf()];
    let read = || -> io::Result<Vec<u8>> {
        let (_, offset) = tail_start(&files, lines)?;
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut raw = Vec::new();
        file.read_to_end(&mut raw)?;
        Ok(raw)
    };
    let Ok(raw) = read() else { return String::new() };
    let mut out = Vec::new();
    let mut filter = Filter::new(Options::default());
    for line in raw.split_inclusive(|byte| *byte == b'\n') {
        filter.line(line, &mut out);
    }
    let start = out.len().saturating_sub(bytes);
    String::from_utf8_lossy(&out[start..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, first: u32, last: u32) {
        let text: String = (first..=last)
            .map(|number| format!("2026-01-01T00:00:{number:02}.5Z stdout F line {number}\n"))
            .collect();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn tails_reach_into_rotated_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        write(&directory.path().join("0.log.20260101-000000"), 1, 3);
        write(&path, 4, 6);
        let mut files = rotated(&path);
        files.push(path.clone());
        assert_eq!(files.len(), 2);
        let line = "2026-01-01T00:00:04.5Z stdout F line 4\n".len() as u64;
        for (lines, expected) in [
            (0, (1, 3 * line)),
            (1, (1, 2 * line)),
            (3, (1, 0)),
            (4, (0, 2 * line)),
            (6, (0, 0)),
            (99, (0, 0)),
        ] {
            assert_eq!(tail_start(&files, lines).unwrap(), expected, "{lines}");
        }
        assert_eq!(tail_text(&path, 2, 100), "line 5\nline 6\n");
        assert_eq!(tail_text(&path, 2, 3), " 6\n");
    }

    #[test]
    fn filters_by_time_and_bytes_and_joins_partial_lines() {
        let lines = b"2026-01-01T00:00:01Z stdout P a\n2026-01-01T00:00:02Z stdout F b\n2026-01-01T00:00:03Z stderr F c\n";
        let show = |options: Options| {
            let mut filter = Filter::new(options);
            let mut out = Vec::new();
            lines
                .split_inclusive(|byte| *byte == b'\n')
                .all(|line| filter.line(line, &mut out));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(show(Options::default()), "ab\nc\n");
        assert_eq!(
            show(Options {
                since: Some("2026-01-01T00:00:02Z".parse().unwrap()),
                ..Options::default()
            }),
            "b\nc\n"
        );
        assert_eq!(
            show(Options {
                limit: Some(4),
                ..Options::default()
            }),
            "ab\nc"
        );
        assert_eq!(
            show(Options {
                stream: Some(b"stderr"),
                timestamps: true,
                ..Options::default()
            }),
            "2026-01-01T00:00:03Z c\n"
        );
        assert_eq!(
            show(Options {
                timestamps: true,
                ..Options::default()
            }),
            "2026-01-01T00:00:01Z ab\n2026-01-01T00:00:03Z c\n",
            "one timestamp a line, however many parts it came in"
        );
    }

    #[test]
    fn a_last_line_without_newline_stays_without() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::fs::write(
            &path,
            "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stdout P DONE\n",
        )
        .unwrap();
        assert_eq!(tail_text(&path, 80, 2048), "one\nDONE");
        assert_eq!(tail_text(&path, 1, 2048), "DONE");
    }
}
