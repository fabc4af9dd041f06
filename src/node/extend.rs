//! More attempts for a job under way, from its owner to the store (docs/protocols.md, 16, rule 28).
//!
//! A link that breaks, or anything else that goes wrong here, costs the job nothing: what is whole
//! counts, and the rest comes again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::session::Event;
use super::setup::Keep;
use super::upload::{checked, now};
use super::visit::{Answering, owned};
use super::wire::{ToNode, ToOwner, UPLOAD_LIMIT};
use super::{Node, Running};
use crate::job::{CheckedManifest, Limits, ManifestError, SignedExtension};
use crate::keys::hex;
use crate::net::link::Link;
use crate::transcript::SignedHeader;

/// Takes what the owner deals to a job that runs here, or tells it why not.
pub(super) async fn extend(node: &Arc<Node>, mut link: Link, manifest: [u8; 32]) {
    let peer = link.peer();
    let label = link.label().to_owned();
    link.set_limit(UPLOAD_LIMIT);
    let mut answering = Answering::new(link);
    let answer = match owned(node, &peer, manifest) {
        Ok(job) => take(node, &job, &mut answering).await,
        Err(reason) => Err(reason),
    };
    tracing::info!(peer = label, job = hex(&manifest[..8]), ?answer, "more attempts");
    answering.last(answer.unwrap_or_else(ToOwner::Refused)).await;
}

/// The last answer.
async fn take(node: &Arc<Node>, job: &Running, answering: &mut Answering) -> Result<ToOwner, String> {
    let other = |_| "the owner deals more attempts to this job on another link: wait until that is over";
    let _alone = job.extending.try_lock().map_err(other)?;
    let manifest = job.manifest.clone();
    if !(job.kept && manifest.has_attempts()) {
        let reason =
            "this node keeps nothing that the job could go on from (--no-recovery), or the job has one attempt";
        return Err(format!("{reason}: submit it again, with --attempts 2 or more"));
    }
    let is_loaded = {
        let status = job.status.borrow();
        status.inputs && status.segments == status.segments_of
    };
    if !is_loaded {
        return Err("not all of the job is here yet: deal more attempts once it is submitted".to_owned());
    }
    let (store, limits) = (Arc::clone(&node.config.store), node.config.limits);
    let keep = Keep::new(Arc::clone(&store), manifest.manifest().nonce);
    let (told, of) = (keep.clone(), manifest.clone());
    let attempts = on_disk(move || told.held(&of)).await?;
    answering.say(&ToOwner::Holds { attempts }).await.map_err(|e| e.to_string())?;
    let deadline = node.config.deadline;
    let frame = next(answering, deadline).await?;
    let mut taking = on_disk(move || {
        let Some(ToNode::Extension { from, statement }) = ToNode::decode(&frame) else { return Err(out_of_place()) };
        let level = store.attempt(manifest.manifest().nonce).map_err(|e| e.to_string())?;
        Taking::new(keep, manifest, (level, from), (now(), &limits), statement)
    })
    .await?;
    let of = taking.left();
    while taking.left() > 0 {
        let frame = next(answering, deadline).await?;
        taking = on_disk(move || taking.segment(&frame).map(|()| taking)).await?;
        // A session that is gone has ended the job, and the store takes nothing more.
        let _ = job.orders.send(Event::Held { attempts: taking.held() });
        let segments = of - taking.left();
        if segments < of {
            answering.say(&ToOwner::Stored { segments, of }).await.map_err(|e| e.to_string())?;
        }
    }
    let _ = job.orders.send(Event::Held { attempts: taking.held() });
    Ok(ToOwner::Stored { segments: of, of })
}

async fn next(answering: &mut Answering, deadline: Duration) -> Result<Bytes, String> {
    let silent = |_| format!("the owner sent nothing for {} s: is it connected?", deadline.as_secs());
    timeout(deadline, answering.receiver.recv()).await.map_err(silent)?.map_err(|error| error.to_string())
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    let unread = |_| Err("this node cannot use its store: see its log".to_owned());
    tokio::task::spawn_blocking(work).await.unwrap_or_else(unread)
}

fn out_of_place() -> String {
    "the owner sent something else than a statement of more attempts or the next segment: use the same release"
        .to_owned()
}

/// A statement of more attempts that was taken, and its segments on their way.
pub(super) struct Taking {
    keep: Keep,
    manifest: CheckedManifest,
    /// in all
    attempts: u32,
    /// those that are whole and durable
    held: u32,
    /// the next segment, counted over the streams of all attempts, and where they end
    next: u32,
    end: u32,
}

impl Taking {
    /// Checks a statement against what this node serves and holds, and makes it durable: after that, and not before, segments
    /// of its attempts are taken. `level` is the attempt in which this node is; the
    /// first that comes is `from`. `now` is in unix seconds.
    pub(super) fn new(
        keep: Keep,
        manifest: CheckedManifest,
        (level, from): (u32, u32),
        (now, limits): (u64, &Limits),
        statement: &[u8],
    ) -> Result<Self, String> {
        let attempts = SignedExtension::verify(statement, &manifest).map_err(|e| e.to_string())?;
        let expires = manifest.manifest().expires;
        if now >= expires {
            return Err(ManifestError::Expired { expires, now }.to_string());
        }
        let held = keep.held(&manifest)?;
        if from > held.min(attempts) {
            return Err(format!("the owner deals attempts from {from} on, this node holds {held}: run it again"));
        }
        let number = |attempts: u32| {
            let number = u64::from(attempts) * manifest.stream().segments();
            u32::try_from(number)
                .map_err(|_| format!("the material has {number} segments, expected at most {}", u32::MAX))
        };
        let (next, end) = (number(from)?, number(attempts)?);
        // One that was sent again, or has come late, adds nothing.
        if attempts > held {
            let (ahead, cap) = (attempts.saturating_sub(level), limits.attempts);
            if ahead > cap {
                return Err(format!(
                    "the job asks for {ahead} attempts that are not over, this node serves at most {cap}: deal fewer"
                ));
            }
            keep.put_extension(statement)?;
        }
        let held = if manifest.stream().segments() == 0 { held.max(attempts) } else { held };
        Ok(Self { keep, manifest, attempts, held, next, end })
    }

    /// Segments that are still to come.
    pub(super) fn left(&self) -> u32 {
        self.end - self.next
    }

    /// Attempts that are whole and durable.
    pub(super) fn held(&self) -> u32 {
        self.held
    }

    /// Checks the next segment, an owner's frame, and stores it if its attempt is not held; with the last of an
    /// attempt all before is durable.
    pub(super) fn segment(&mut self, frame: &[u8]) -> Result<(), String> {
        let Some(ToNode::Segment { header, .. }) = ToNode::decode(frame) else { return Err(out_of_place()) };
        let header = SignedHeader::from_bytes(header).map_err(|error| error.to_string())?;
        let (_, bytes) = checked(&self.manifest, self.attempts, self.next, &header, frame)?;
        let attempt = header.claimed().attempt;
        let last = header.claimed().index + 1 == self.manifest.stream().segments() as u32;
        if attempt >= self.held {
            self.keep.put_segment(self.next, &header, bytes, true)?;
            if last {
                self.keep.hold(attempt + 1)?;
                self.held = attempt + 1;
            }
        }
        self.next += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::entropy::Entropy;
    use crate::keys::SecretKey;
    use crate::owner::{Prepared, Request, prepare};
    use crate::program::{Builder, Type};
    use crate::roster::Roster;
    use crate::store::{MemoryStore, Store, StoreError};

    fn owner() -> Arc<SecretKey> {
        Arc::new(SecretKey::insecure_from_seed(1, "owner"))
    }

    /// A job whose streams have three segments.
    fn job(note: &str) -> Prepared {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::int(-9..=9), [60_000]);
        b.output("y", "alice", &(&x * &x));
        let request = Request {
            program: &b.finish().unwrap(),
            roster: Roster::spdz(2).unwrap(),
            planning: Default::default(),
            nodes: &[1, 2].map(|i| SecretKey::insecure_from_seed(i, "node").public()),
            spares: &[],
            inputs: &BTreeMap::from([("x".to_owned(), vec![3.0; 60_000])]),
            readers: &BTreeMap::new(),
            attempts: 2,
            expires: 0,
            note,
        };
        prepare(&owner(), &request, Entropy::insecure_from_seed(1)).unwrap()
    }

    /// A node that holds the attempts of the manifest.
    fn loaded(job: &Prepared) -> (Arc<MemoryStore>, Keep) {
        let (store, nonce) = (Arc::new(MemoryStore::new()), job.manifest().manifest().nonce);
        store.begin(nonce, job.manifest().digest()).unwrap();
        let keep = Keep::new(Arc::clone(&store) as Arc<dyn Store>, nonce);
        for (number, (header, bytes)) in (0..).zip(job.stream().unwrap()) {
            keep.put_segment(number, &header, &bytes, true).unwrap();
        }
        keep.sync().unwrap();
        (store, keep)
    }

    fn frames(job: &Prepared, attempt: u32) -> Vec<Vec<u8>> {
        let stream = job.dealing().stream_of(attempt).unwrap();
        stream
            .map(|(header, bytes)| ToNode::Segment { header: &header.to_bytes(), bytes: &bytes }.encode().to_vec())
            .collect()
    }

    fn statement(job: &Prepared, attempts: u32) -> Vec<u8> {
        job.dealing().extension(attempts).unwrap().to_bytes()
    }

    fn taking(job: &Prepared, keep: &Keep, from: u32, statement: &[u8]) -> Result<Taking, String> {
        let (at, now) = ((1, from), job.manifest().manifest().expires - 1);
        Taking::new(keep.clone(), job.manifest().clone(), at, (now, &Limits::default()), statement)
    }

    #[test]
    fn an_attempt_counts_when_all_of_it_is_on_disk() {
        let job = job("");
        let (store, keep) = loaded(&job);
        let held = |keep: &Keep| keep.held(job.manifest()).unwrap();
        assert_eq!(held(&keep), 2);
        let frames = frames(&job, 2);
        assert!(frames.len() > 2);
        let mut first = taking(&job, &keep, 2, &statement(&job, 3)).unwrap();
        assert_eq!(first.left() as usize, frames.len());
        let nonce = job.manifest().manifest().nonce;
        let undone = Keep::new(Arc::new(store.crashed(|_| 0)), nonce);
        assert_eq!(undone.extension().unwrap(), Some(statement(&job, 3)));
        for frame in &frames[..frames.len() - 1] {
            first.segment(frame).unwrap();
            assert_eq!((first.held(), held(&keep)), (2, 2));
        }
        // The run is killed, and the process with it: the whole stream comes again.
        let store = Arc::new(store.crashed(|writes| writes / 2));
        let keep = Keep::new(Arc::clone(&store) as Arc<dyn Store>, nonce);
        let mut second = taking(&job, &keep, 2, &statement(&job, 3)).unwrap();
        frames.iter().for_each(|frame| second.segment(frame).unwrap());
        assert_eq!((second.left(), second.held(), held(&keep)), (0, 3, 3));
        // A stream whose last segment is there may lack another, if the disk was not waited for.
        let unknown = job.dealing().stream_of(3).unwrap();
        for (number, (header, bytes)) in (3 * frames.len() as u32..).zip(unknown) {
            keep.put_segment(number, &header, &bytes, true).unwrap();
        }
        keep.put_extension(&statement(&job, 4)).unwrap();
        assert_eq!(held(&keep), 3);
        // The owner may leave now: what a crash undoes is none of it.
        let undone = Keep::new(Arc::new(store.crashed(|_| 0)), nonce);
        assert_eq!(held(&undone), 3);
        // A run that comes late to this node changes nothing, nor does one that it has heard before.
        let mut third = taking(&job, &keep, 2, &statement(&job, 3)).unwrap();
        frames.iter().for_each(|frame| third.segment(frame).unwrap());
        assert_eq!((third.left(), third.held(), held(&keep)), (0, 3, 3));
    }

    /// They are written apart: a process that is killed may leave the one without the other.
    #[test]
    fn segments_without_their_headers_do_not_count() {
        let job = job("");
        let nonce = job.manifest().manifest().nonce;
        let store = MemoryStore::new();
        store.begin(nonce, job.manifest().digest()).unwrap();
        let store = Arc::new(store);
        let keep = Keep::new(Arc::clone(&store) as Arc<dyn Store>, nonce);
        for (number, (header, bytes)) in (0..).zip(job.stream().unwrap()) {
            keep.put_segment(number, &header, &bytes, true).unwrap();
        }
        let of = job.manifest().segments() as usize;
        for (headers, held) in [(of, 2), (of - 1, 1), (0, 0)] {
            let mut kept = [of, headers].into_iter();
            let found = Keep::new(Arc::new(store.crashed(|_| kept.next().unwrap())), nonce);
            assert_eq!(found.held(job.manifest()).unwrap(), held);
        }
    }

    #[test]
    fn what_the_owner_did_not_sign_for_this_place_is_not_taken() {
        let (job, other) = (job(""), job("another"));
        let (_, keep) = loaded(&job);
        let refused = |from, statement: &[u8]| taking(&job, &keep, from, statement).err().unwrap();
        assert!(refused(2, &statement(&other, 3)).contains("is for job"));
        assert!(refused(2, &[]).contains("no signed statement"));
        // A gap would be taken for whole by its last segment.
        assert!(refused(3, &statement(&job, 4)).contains("this node holds 2"));
        assert!(refused(2, &statement(&job, 6)).contains("serves at most 4: deal fewer"));
        let (late, limits) = (job.manifest().manifest().expires, Limits::default());
        let late = Taking::new(keep.clone(), job.manifest().clone(), (1, 2), (late, &limits), &statement(&job, 3));
        assert!(late.err().unwrap().contains("expired"));
        assert_eq!(keep.extension().unwrap(), None);
        let mut taking = taking(&job, &keep, 2, &statement(&job, 3)).unwrap();
        let frames = frames(&job, 2);
        let mut takes = |frame: &[u8]| taking.segment(frame).unwrap_err();
        assert!(takes(&frames[1]).contains("expected 0 of 2"));
        assert!(takes(&self::frames(&job, 1)[0]).contains("expected 0 of 2"));
        let foreign = takes(&self::frames(&other, 2)[0]);
        assert!(foreign.contains("signed for another job"), "{foreign}");
        let mut changed = frames[0].clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(takes(&changed).contains("root"));
        assert!(takes(&ToNode::Jobs.encode()).contains("something else"));
        taking.segment(&frames[0]).unwrap();
        assert!(taking.segment(&frames[0]).unwrap_err().contains("expected 1 of 2"));
    }

    /// An owner that signs two segments for one place harms itself: this node keeps the first.
    #[test]
    fn a_second_stream_for_one_attempt_is_refused() {
        let job = job("");
        let (store, keep) = loaded(&job);
        let mut first = taking(&job, &keep, 2, &statement(&job, 3)).unwrap();
        first.segment(&frames(&job, 2)[0]).unwrap();
        let mut second = taking(&job, &keep, 2, &statement(&job, 3)).unwrap();
        let bytes = vec![0; 8 * crate::transcript::SEGMENT_WORDS as usize];
        let header = job.manifest().stream_of(3).sign(&owner(), 2, 0, &bytes).unwrap().to_bytes();
        let refused = second.segment(&ToNode::Segment { header: &header, bytes: &bytes }.encode()).unwrap_err();
        let nonce = job.manifest().manifest().nonce;
        let differs =
            StoreError::SegmentDiffers { job: hex(&nonce[..4]), index: 2 * job.manifest().stream().segments() as u32 };
        assert_eq!(refused, differs.to_string());
        assert_eq!(store.state(nonce).unwrap(), Some(crate::store::JobState::Running));
    }
}
