//! What a plan will cost, before anybody pays for it.
//!
//! Everything here is counted from the plan, nothing is measured: the same
//! program and roster cost the same on every machine, and the prediction in
//! seconds rests on a latency, a bandwidth and compute rates that are stated.
//! What the engine sends is counted to the byte; what TLS and WebSocket put
//! around each frame (some 30 bytes) is left out.

use std::fmt;
use std::time::Duration;

use super::kings::{DIGEST, Kings, OPENED_COIN};
use super::plan::{AHEAD_WORDS, Plan, Prim, Round};
use crate::engine::frame::HEADER_BYTES;
use crate::roster::{Degree, Redundancy, Roster, Scheme, Slot};
use crate::tensor::Dims;
use crate::transcript::SEGMENT_WORDS;

// What a prediction assumes of a node: about two cores of a 2020s server.
// Stated, and the same on every machine, since plans of long jobs hang on them (another number is
// another plan, which nodes of another release refuse); they were fitted to
// `cargo bench --bench kernels`, to the phase `ahead` of `bench mul:1000000`,
// to `bench wire:24000000`, and to `bench mul:1000`, `logreg:10` and
// `mul:1000000` (`cargo run --release --example bench -- WORK --repeat 5`).

/// Field multiply-adds of elementwise steps, per second.
pub const MULTIPLY_ADDS_PER_SECOND: f64 = 3e8;
/// Field multiply-adds of matrix products, per second.
pub const MATRIX_MULTIPLY_ADDS_PER_SECOND: f64 = 5e9;
/// Pseudorandom words expanded, per second.
pub const WORDS_PER_SECOND: f64 = 4e8;
/// Bytes that links seal, copy and open, each way at the same time, per second.
pub const LINK_BYTES_PER_SECOND: f64 = 8e8;
/// Seconds of an exchange beside its latency and bytes: threads that wake each
/// other, a record on disk.
pub const SECONDS_PER_EXCHANGE: f64 = 5e-4;
/// Words of outputs that are sealed, stored and fetched, per second.
pub const OUTPUT_WORDS_PER_SECOND: f64 = 2.5e7;
/// Seconds of a job that has nothing to compute, from the last node that is
/// ready to the last receipt.
pub const SECONDS_PER_JOB: f64 = 1e-2;

/// Exchanges of one SPDZ check: frozen transcript, coin committed, opened and
/// compared, σ committed and opened, result compared.
const EXCHANGES_PER_CHECK: u64 = 7;
/// A nonce and one word.
const OPENED_SIGMA: u64 = 41;

/// The cost of a plan. All counts are of one node, the same for each, unless
/// they say otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// rounds in which words are opened
    pub rounds: u64,
    /// checks, the last one included: of MACs in SPDZ, of what kings opened in
    /// Shamir, where they are 0 without kings
    pub checks: u64,
    /// message delays one after another: that all are ready, the start, a
    /// round, the half-rounds of a check, the end
    pub exchanges: u64,
    /// words opened
    pub opened_words: u64,
    /// those of them that kings open
    pub king_words: u64,
    /// rounds in which kings open words; each takes two more exchanges
    pub king_rounds: u64,
    /// bytes sent to all other nodes together, frame headers included, TLS and
    /// WebSocket framing not; by the node that sends most, where kings' slices
    /// differ by a word ([`Plan::sent_bytes`] has each)
    pub sent_bytes: u64,
    /// Δ words of the inputs, which the owner sends to every node
    pub input_words: u64,
    /// Δ words of the material stream, which the owner sends to every node
    pub stream_words: u64,
    /// segments of the stream
    pub segments: u64,
    /// pseudorandom words expanded, over all keys that the node holds
    pub expanded_words: u64,
    /// of these, what is expanded before the first message between nodes
    pub expanded_ahead: u64,
    /// field multiply-adds of elementwise steps
    pub multiply_adds: u64,
    /// field multiply-adds of matrix products
    pub matrix_multiply_adds: u64,
    /// words of all outputs, MACs included
    pub output_words: u64,
    /// the most words alive at once, MACs included: registers, what is expanded
    /// ahead, and what kings opened until its check, with this node's shares of
    /// it; what a kernel needs while it runs and waiting segments come on top
    pub live_words: u64,
}

impl Plan {
    /// Counts what the plan costs. Walks its steps once.
    pub fn cost(&self) -> Cost {
        self.counted().0
    }

    /// Bytes that one node sends to all others together, as in [`Cost`].
    pub fn sent_bytes(&self, slot: Slot) -> u64 {
        let (_, common, kings) = self.counted();
        common + 8 * kings.iter().map(|kings| kings.sent_words(slot)).sum::<u64>()
    }

    /// The cost; the bytes that every node sends, whatever it does as a king; and the kings.
    fn counted(&self) -> (Cost, u64, Vec<Kings>) {
        let peers = u64::from(self.roster.nodes()) - 1;
        let spdz = self.roster.scheme() == Scheme::Spdz;
        let rounds = self.opening_rounds() as u64;
        let planned = self.rounds[..self.opening_rounds()].iter().filter(|r| r.check).count() as u64;
        let checks = if spdz || self.has_kings() { planned + 1 } else { 0 };
        let kings: Vec<_> = (0..self.opening_rounds()).filter_map(|r| self.kings(r)).collect();
        let king_rounds = kings.len() as u64;
        let (per_check, check_bodies) = if spdz {
            (EXCHANGES_PER_CHECK, DIGEST * (EXCHANGES_PER_CHECK - 2) + OPENED_COIN + OPENED_SIGMA)
        } else {
            (Kings::EXCHANGES_PER_CHECK, Kings::check_bodies())
        };
        // The start, and without checks a last comparison of transcripts.
        let plain = 1 + u64::from(checks == 0);
        let segments = self.stream_words.div_ceil(u64::from(SEGMENT_WORDS));
        let opened_words = (0..self.opening_rounds()).flat_map(|r| self.openings(r)).map(|o| o.2 as u64).sum();
        let king_words = kings.iter().map(|kings| kings.words() as u64).sum();
        let exchanges = plain + rounds + king_rounds * Kings::MORE_EXCHANGES + checks * per_check;
        // Each round by kings compares one digest.
        let bodies = DIGEST * (plain + segments + king_rounds) + checks * check_bodies;
        // Words to one peer, a hash to each of two others.
        let layer = |r| if self.layer(r).next().is_some() { 5 + 8 * self.layer_words(r) as u64 + 2 * 33 } else { 0 };
        let layers: u64 = (0..self.opening_rounds()).map(layer).sum();
        let words = 8 * (opened_words - king_words);
        let common = peers * ((exchanges + segments) * HEADER_BYTES as u64 + bodies + words) + layers;
        let by_king = |slot| kings.iter().map(|kings| kings.sent_words(slot)).sum::<u64>();
        let most = self.roster.slots().map(by_king).max().unwrap_or(0);
        // A king interpolates a slice and checks nothing; the check takes a
        // coefficient for each word, times the share and times what was opened.
        let decoding = |kings: &Kings| (kings.words() as u64 * self.decoding(kings.degree()), self.king_work(kings));
        let (all_to_all, by_kings) = kings.iter().map(decoding).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let steps: u64 = self.prims.iter().map(|p| self.work(p).0).sum();
        let cost = Cost {
            rounds,
            checks,
            exchanges: 1 + exchanges,
            opened_words,
            king_words,
            king_rounds,
            sent_bytes: common + 8 * most,
            input_words: self.inputs.iter().map(|i| i.words).sum(),
            stream_words: self.stream_words,
            segments,
            expanded_words: self.prims.iter().map(|p| self.expansion(p)).sum::<u64>() + king_words,
            expanded_ahead: self.expanded_ahead(),
            multiply_adds: steps - all_to_all + by_kings,
            matrix_multiply_adds: self.prims.iter().map(|p| self.work(p).1).sum(),
            output_words: self.outputs.iter().map(|o| o.shape.len() as u64 * self.words_per_share()).sum(),
            live_words: self.live_words(),
        };
        (cost, common, kings)
    }

    /// Multiply-adds of a node behind the words that kings open in a round, the
    /// check included.
    fn king_work(&self, kings: &Kings) -> u64 {
        let words = kings.words() as u64;
        let slice = words.div_ceil(u64::from(self.roster.nodes()));
        slice * (self.roster.degree(kings.degree()) as u64 + 1) + 2 * words
    }

    /// Everything that a user wants to know of the plan before it runs, with
    /// seconds for a latency (one way) and a bandwidth in bits per second.
    pub fn report(&self, latency: Duration, bandwidth: f64) -> Report<'_> {
        Report { plan: self, cost: self.cost(), latency, bandwidth }
    }

    /// Pseudorandom words behind one random word at one node.
    fn keys(&self) -> u64 {
        match self.roster.scheme() {
            // One stream for values, one for MACs.
            Scheme::Spdz => 2,
            Scheme::Shamir => shamir_keys(self.roster),
        }
    }

    pub(super) fn expansion(&self, prim: &Prim) -> u64 {
        match prim {
            Prim::Input { out, .. } | Prim::Draw { out, .. } => self.sec_lens[out.0 as usize] as u64 * self.keys(),
            // t words a key for a zero sharing of degree 2t.
            Prim::OpenProduct { out, .. } => {
                self.pub_lens[out.0 as usize] as u64 * self.keys() * u64::from(self.roster.threshold())
            }
            // Three components, each 64 bits to a word.
            Prim::DrawBits { out, .. } => 3 * self.bit_lens[out.0 as usize] as u64,
            Prim::BitMerge { masks, .. } => 9 * self.material[masks.0 as usize].material.packed_words() as u64 / 2,
            _ => 0,
        }
    }

    /// What the steps draw first, as far as it may lie ready (words at one
    /// node, over all keys).
    fn expanded_ahead(&self) -> u64 {
        let (mut held, mut expanded) = (0, 0);
        for prim in self.rounds.iter().flat_map(|round| self.steps(round)) {
            held += self.drawn_words(prim);
            if held > AHEAD_WORDS {
                break;
            }
            expanded += if self.drawn_words(prim) > 0 { self.expansion(prim) } else { 0 };
        }
        expanded
    }

    /// Multiply-adds of one step: elementwise, and in matrix products.
    /// Interpolating and checking the opened words belongs to the openings, and
    /// a word's part of the MAC check too.
    pub(super) fn work(&self, prim: &Prim) -> (u64, u64) {
        let all = self.all_work(prim);
        let products = match prim {
            Prim::Scale { dims: dims @ Dims::Matmul { .. }, .. } => dims.multiplications() * self.words_per_share(),
            Prim::Beaver { dims: dims @ Dims::Matmul { .. }, .. } => {
                2 * dims.multiplications() * self.words_per_share()
            }
            Prim::OpenProduct { dims: dims @ Dims::Matmul { .. }, .. } => dims.multiplications(),
            Prim::OpenBeaver { dims: dims @ Dims::Matmul { .. }, .. } => 2 * dims.multiplications(),
            _ => 0,
        };
        (all - products, products)
    }

    fn all_work(&self, prim: &Prim) -> u64 {
        let shares = self.words_per_share();
        let decode = |degree| self.decoding(degree);
        let secret_len = |s: &super::plan::Sec| self.sec_lens[s.0 as usize] as u64;
        match prim {
            Prim::Constant { .. } | Prim::ViewPublic { .. } => 0,
            Prim::Input { out, .. } | Prim::Draw { out, .. } => secret_len(out) * shares,
            Prim::Linear { secret, public, out, .. } => secret_len(out) * shares * (secret.len() + public.len()) as u64,
            Prim::View { inputs, .. } => inputs.iter().map(secret_len).sum::<u64>() * shares,
            Prim::Scale { dims, .. } => shares * dims.multiplications(),
            Prim::Beaver { dims, .. } => shares * beaver(*dims),
            Prim::Shift { out, .. } => secret_len(out) * 3 * shares,
            Prim::Leaf { one_hot, thresholds, .. } => secret_len(one_hot) * thresholds.len() as u64 * shares,
            // Steps on packed words, in the time of a multiply-add each.
            Prim::DrawBits { out, .. } | Prim::BitSign { out, .. } => 3 * self.bit_lens[out.0 as usize] as u64,
            Prim::BitLeaves { c, thresholds, g, .. } => {
                // The transpose takes about a step for each word of c.
                let words = self.pub_lens[c.0 as usize] * thresholds.len() + 6 * self.bit_lens[g.0 as usize];
                words as u64
            }
            Prim::BitMerge { masks, .. } => 12 * self.material[masks.0 as usize].material.packed_words() as u64,
            Prim::OpenBits { out, .. } => self.pub_lens[out.0 as usize] as u64,
            Prim::Open { x, .. } => secret_len(x) * decode(Degree::T),
            Prim::OpenProduct { dims, out, .. } => {
                dims.multiplications() + self.pub_lens[out.0 as usize] as u64 * (1 + decode(Degree::TwoT))
            }
            Prim::OpenBeaver { dims, out, .. } => {
                let (left, right, result) = dims.lens();
                let macs = match dims {
                    _ if shares == 1 => 0,
                    Dims::Elementwise(_) => beaver(*dims),
                    // Only inside the check, as a bilinear form.
                    Dims::Matmul { .. } => 2 * (left + right) as u64 + 3 * result as u64,
                };
                beaver(*dims) + macs + self.pub_lens[out.0 as usize] as u64 * (1 + decode(Degree::T))
            }
        }
    }

    /// Multiply-adds behind one opened word.
    fn decoding(&self, degree: Degree) -> u64 {
        let n = u64::from(self.roster.nodes());
        match self.roster.redundancy(degree) {
            // The sum of all shares, its MAC and its coefficient in the check.
            Redundancy::None if self.roster.scheme() == Scheme::Spdz => n + 3,
            // Interpolation, and one parity row for each further share.
            _ => {
                let base = self.roster.degree(degree) as u64 + 1;
                base * (1 + n - base)
            }
        }
    }

    /// The most words alive at once: registers, and what is expanded ahead of
    /// later rounds (at most [`AHEAD_WORDS`]).
    pub fn live_words(&self) -> u64 {
        let (mut live, mut most) = (0u64, 0u64);
        let shares = self.words_per_share();
        let drawn = |round: &Round| -> u64 { self.steps(round).map(|prim| self.drawn_words(prim)).sum() };
        let mut to_draw: u64 = self.rounds.iter().map(drawn).sum();
        let mut held = 0;
        for (at, round) in self.rounds.iter().enumerate() {
            // Shares and opened words wait for the check.
            let kings = self.kings(at).map_or(0, |kings| 2 * kings.words() as u64);
            (held, live) = (held + kings, live + kings);
            for prim in self.steps(round) {
                live += prim.written_sec().map(|s| self.sec_lens[s.0 as usize] as u64 * shares).sum::<u64>();
                live += prim.written_pub().map_or(0, |p| self.pub_lens[p.0 as usize] as u64);
                live += prim.written_bits().map(|b| 3 * self.bit_lens[b.0 as usize] as u64).sum::<u64>();
            }
            // Words ahead become registers; more are made once the round waits.
            to_draw -= drawn(round);
            most = most.max(live + to_draw.min(AHEAD_WORDS));
            if round.check {
                live -= std::mem::take(&mut held);
            }
            live -= round.free_sec.iter().map(|s| self.sec_lens[s.0 as usize] as u64 * shares).sum::<u64>();
            live -= round.free_pub.iter().map(|p| self.pub_lens[p.0 as usize] as u64).sum::<u64>();
            live -= round.free_bits.iter().map(|b| 3 * self.bit_lens[b.0 as usize] as u64).sum::<u64>();
        }
        most
    }

    pub(super) fn steps<'a>(&'a self, round: &'a Round) -> impl Iterator<Item = &'a Prim> {
        round.local.iter().chain(&round.open).map(|i| &self.prims[*i as usize])
    }
}

/// c + D·b + (a + D)·E.
fn beaver(dims: Dims) -> u64 {
    2 * dims.multiplications() + dims.lens().0 as u64
}

/// The subset keys that one node holds: each subset has n − t members.
fn shamir_keys(roster: Roster) -> u64 {
    let (n, t) = (roster.nodes() as usize, roster.threshold() as usize);
    (roster.subsets().len() * (n - t) / n) as u64
}

impl Cost {
    /// Predicted seconds from the last node that is ready to the last receipt,
    /// for a one-way latency between any two nodes and the bandwidth of each
    /// node's uplink in bits per second. Each node is a machine of its own; its
    /// uplink carries the frames of a round one after another, and the round
    /// ends when the last has arrived. Computing does not overlap with sending,
    /// and what was expanded ahead costs nothing any more. The material is
    /// taken to be at the nodes already.
    pub fn seconds(&self, latency: Duration, bandwidth: f64) -> f64 {
        let exchanging = self.exchanges as f64 * (latency.as_secs_f64() + SECONDS_PER_EXCHANGE);
        let sending = self.sent_bytes as f64 * (8.0 / bandwidth + 1.0 / LINK_BYTES_PER_SECOND);
        let expanding = (self.expanded_words - self.expanded_ahead) as f64 / WORDS_PER_SECOND;
        let elementwise = self.multiply_adds as f64 / MULTIPLY_ADDS_PER_SECOND;
        let products = self.matrix_multiply_adds as f64 / MATRIX_MULTIPLY_ADDS_PER_SECOND;
        let giving = self.output_words as f64 / OUTPUT_WORDS_PER_SECOND;
        SECONDS_PER_JOB + exchanging + sending + expanding + elementwise + products + giving
    }

    /// Predicted seconds that the owner needs to send inputs and material to
    /// all `nodes`, over an uplink of so many bits per second.
    pub fn upload_seconds(&self, nodes: u8, bandwidth: f64) -> f64 {
        f64::from(nodes) * (self.input_words + self.stream_words) as f64 * 64.0 / bandwidth
    }
}

/// A plan in words, for people; made by [`Plan::report`].
pub struct Report<'a> {
    plan: &'a Plan,
    cost: Cost,
    latency: Duration,
    bandwidth: f64,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { plan, cost, latency, bandwidth } = self;
        let roster = plan.roster;
        let stands = match roster.scheme() {
            Scheme::Shamir => format!("private and correct if at most {} of them are corrupt", roster.threshold()),
            Scheme::Spdz => "private and correct if one of them is honest, but any of them can stop it".to_owned(),
        };
        writeln!(f, "{roster}: {} nodes; {stands}", roster.nodes())?;
        let again = match (plan.replays(), roster.scheme()) {
            (true, _) => "can be started again in mid-job",
            (false, Scheme::Shamir) => "ends the job (by digits and all to all it would not)",
            (false, Scheme::Spdz) => "ends the job",
        };
        match plan.spare() {
            0 => writeln!(f, "waits for every node that is lost; one whose process is killed {again}")?,
            spare => writeln!(f, "goes on without up to {spare} lost nodes; one whose process is killed {again}")?,
        }
        writeln!(f, "\ninputs")?;
        for i in &plan.inputs {
            writeln!(f, "  {:<20} {:<12} {}, given by {}", i.name, i.shape.to_string(), i.ty, i.owner)?;
        }
        writeln!(f, "outputs")?;
        for o in &plan.outputs {
            let error = match o.error {
                0.0 => "exact".to_owned(),
                e if e.is_finite() => format!("off by at most {e:.2e}"),
                _ => "no error bound can be shown".to_owned(),
            };
            writeln!(f, "  {:<20} {:<12} {}, {error}, read by {}", o.name, o.shape.to_string(), o.ty, o.reader)?;
        }
        if plan.declarations.is_empty() {
            writeln!(f, "declared ranges: none, correctness rests on the inputs' types alone")?;
        } else {
            writeln!(f, "declared ranges, on which correctness rests")?;
            for d in &plan.declarations {
                writeln!(f, "  {:<20} {}", d.name, d.ty)?;
            }
        }
        writeln!(f, "\nbetween the nodes")?;
        writeln!(f, "  {:>16}  rounds of openings", cost.rounds)?;
        if cost.king_rounds > 0 {
            writeln!(
                f,
                "  {:>16}  of them by kings, {} half-rounds more each",
                cost.king_rounds,
                Kings::MORE_EXCHANGES
            )?;
        }
        if cost.checks > 0 {
            let spdz = roster.scheme() == Scheme::Spdz;
            let each = if spdz { EXCHANGES_PER_CHECK } else { Kings::EXCHANGES_PER_CHECK };
            writeln!(f, "  {:>16}  checks of {each} half-rounds", cost.checks)?;
        }
        writeln!(f, "  {:>16}  message delays one after another", cost.exchanges)?;
        writeln!(f, "  {:>16}  words opened", cost.opened_words)?;
        if cost.king_words > 0 {
            writeln!(f, "  {:>16}  of them by kings", cost.king_words)?;
        }
        writeln!(f, "  {:>16}  sent by each node, without TLS and WebSocket framing", bytes(cost.sent_bytes))?;
        writeln!(f, "from the owner to each node")?;
        writeln!(f, "  {:>16}  of masked inputs", bytes(8 * cost.input_words))?;
        writeln!(f, "  {:>16}  of material in {} segments", bytes(8 * cost.stream_words), cost.segments)?;
        writeln!(f, "at each node")?;
        writeln!(f, "  {:>16}  pseudorandom words expanded", cost.expanded_words)?;
        writeln!(f, "  {:>16}  field multiply-adds", cost.multiply_adds + cost.matrix_multiply_adds)?;
        writeln!(f, "  {:>16}  in registers, and expanded ahead, at most", bytes(8 * cost.live_words))?;
        if plan.replays() || roster.scheme() == Scheme::Spdz {
            let words: Vec<u64> = plan.checkpoints().iter().map(|round| plan.live(*round).words()).collect();
            let (sum, most) = (words.iter().sum::<u64>(), words.iter().max().copied().unwrap_or(0));
            let (sum, most) = (bytes(8 * sum), bytes(8 * most));
            writeln!(f, "  {:>16}  checkpoints for a restart, {most} at most, {sum} in all", words.len())?;
        }
        writeln!(
            f,
            "\npredicted, not measured, for {:.1} ms one way, {:.0} Mbit/s and {MULTIPLY_ADDS_PER_SECOND:.0e} multiply-adds ({MATRIX_MULTIPLY_ADDS_PER_SECOND:.0e} in matrix products) and {WORDS_PER_SECOND:.0e} words a second",
            latency.as_secs_f64() * 1e3,
            bandwidth / 1e6,
        )?;
        writeln!(f, "  {:>14.3} s  among the nodes", cost.seconds(*latency, *bandwidth))?;
        write!(f, "  {:>14.3} s  to send inputs and material", cost.upload_seconds(roster.nodes(), *bandwidth))
    }
}

fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        _ => format!("{:.1} MB", n as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::local;
    use crate::program::{Builder, Program, Type};

    fn program() -> Program {
        let b = Builder::new();
        let x = b.input("x", "alice", Type::fixed(-4.0..=4.0), [4, 3]);
        let start = b.constant(&[0.5], Type::fixed(-4.0..=4.0), [3]);
        let (ends, _) = b.repeat(3, &[start], |_, states| {
            let next = (x.matmul(&states[0]).sigmoid().matmul(&x) * 0.1).declare("state", -4.0..=4.0);
            (vec![next], vec![])
        });
        b.output("state", "alice", &ends[0]);
        b.output("sign", "bob", &ends[0].ge0());
        b.finish().unwrap()
    }

    fn rosters() -> Vec<Roster> {
        let shamir = [(4, 1), (5, 1), (3, 1), (5, 2)].map(|(n, t)| Roster::shamir(n, t).unwrap());
        shamir.into_iter().chain([2, 3].map(|n| Roster::spdz(n).unwrap())).collect()
    }

    #[test]
    fn measured_rounds_are_the_predicted_ones() {
        for roster in rosters() {
            let program = program();
            let cost = program.plan(roster).unwrap().cost();
            let run = local::run(&program, roster, &[("x", vec![0.25; 12])]).unwrap();
            assert_eq!(u64::from(run.rounds), cost.rounds, "{roster}");
        }
    }

    #[test]
    fn seconds_follow_what_is_stated() {
        let cost = program().plan(Roster::spdz(3).unwrap()).unwrap().cost();
        assert_eq!((cost.checks, cost.exchanges), (1, cost.rounds + 2 + 7));
        let near = cost.seconds(Duration::ZERO, 1e9);
        let far = cost.seconds(Duration::from_millis(50), 1e9);
        assert!((far - near - 0.05 * cost.exchanges as f64).abs() < 1e-9);
        assert!(cost.seconds(Duration::ZERO, 1e6) > near);
        let shamir = program().plan(Roster::shamir(4, 1).unwrap()).unwrap().cost();
        assert_eq!((shamir.checks, shamir.exchanges), (0, shamir.rounds + 3));
        assert!(shamir.stream_words < cost.stream_words);
        assert!(shamir.live_words > 0 && shamir.expanded_words > 0 && shamir.multiply_adds > 0);
        // Two products an iteration, and the tables of the sigmoid.
        assert!(shamir.matrix_multiply_adds >= 3 * 2 * 4 * 3);
        assert!(shamir.expanded_ahead <= shamir.expanded_words && cost.output_words == 2 * (3 + 3));
    }

    #[test]
    fn the_report_names_what_a_user_must_know() {
        let plan = program().plan(Roster::shamir(4, 1).unwrap()).unwrap();
        let text = plan.report(Duration::from_millis(20), 1e8).to_string();
        for words in [
            "at most 1 of them",
            "given by alice",
            "read by bob",
            "off by at most",
            "state                fixed16 in -4..=4\n",
            "rounds of openings",
            "20.0 ms one way, 100 Mbit/s",
            "without TLS",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
    }
}
