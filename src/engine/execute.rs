//! The steps of one round on one node's shares: local primitives, the shares
//! that leave, and what the opened words become.

use super::ahead::{self, Stock};
use super::check::{Owed, Verify};
use super::error::EngineError;
use crate::backend::Backend;
use crate::field::Fp61;
use crate::prg::Address;
use crate::program::plan::{Bit, Demand, MaterialId, Part, Plan, Prim, Pub, Round, Sec};
use crate::program::{Drawing, Live};
use crate::roster::Slot;
use crate::sharing::packed::{self, Bits, Merging, Replicated, Said};
use crate::sharing::{Delta, Raw, Sharing, Words};
use crate::tensor::Dims;

/// A node's registers and what it needs to fill them.
pub(super) struct Machine<S: Sharing> {
    pub(super) sharing: S,
    drawing: Drawing,
    /// Δ of the inputs; taken when the input is read
    inputs: Vec<Option<Vec<Fp61>>>,
    secrets: Vec<Option<S::Secret>>,
    publics: Vec<Option<Words<S>>>,
    bits: Vec<Option<Bits>>,
    /// words expanded before they are drawn
    stock: Stock<S>,
}

/// A step on packed bits that waits for its words.
pub(super) enum Waiting {
    Merge(Merging),
    Open(Bits),
}

impl<S: Verify> Machine<S> {
    pub(super) fn new(sharing: S, plan: &Plan, attempt: u32, inputs: Vec<Vec<Fp61>>) -> Result<Self, EngineError> {
        if inputs.len() > plan.inputs.len() {
            let input = plan.inputs.len();
            return Err(EngineError::Input { input, found: inputs[input].len(), expected: 0 });
        }
        let mut machine = Self::without_inputs(sharing, plan, attempt);
        let mut given = inputs.into_iter();
        (0..plan.inputs.len()).try_for_each(|input| machine.give(plan, input, given.next().unwrap_or_default()))?;
        Ok(machine)
    }

    /// One whose inputs have been read, or come later.
    pub(super) fn without_inputs(sharing: S, plan: &Plan, attempt: u32) -> Self {
        Self {
            sharing,
            drawing: Drawing::new(plan, attempt),
            inputs: plan.inputs.iter().map(|_| None).collect(),
            secrets: plan.sec_lens.iter().map(|_| None).collect(),
            publics: plan.pub_lens.iter().map(|_| None).collect(),
            bits: plan.bit_lens.iter().map(|_| None).collect(),
            stock: Stock::new(),
        }
    }

    /// Δ of an input that is to be read.
    pub(super) fn give(&mut self, plan: &Plan, input: usize, delta: Vec<Fp61>) -> Result<(), EngineError> {
        let (found, expected) = (delta.len(), plan.inputs[input].words);
        if found as u64 != expected {
            return Err(EngineError::Input { input, found, expected });
        }
        self.inputs[input] = Some(delta);
        Ok(())
    }

    pub(super) fn secret(&self, x: Sec) -> &S::Secret {
        self.secrets[x.0 as usize].as_ref().expect("the plan writes a register before it is read")
    }

    /// The vectors of an output's share; its register is empty afterwards, unless it is read again.
    pub(super) fn output(&mut self, x: Sec, again: bool) -> Vec<Words<S>> {
        let parts = self.sharing.output(self.secret(x));
        if !again {
            self.secrets[x.0 as usize] = None;
        }
        parts
    }

    /// Drops all registers.
    pub(super) fn clear(&mut self) {
        self.secrets.fill_with(|| None);
        self.publics.fill_with(|| None);
        self.bits.fill_with(|| None);
        self.stock = Stock::new();
    }

    pub(super) fn public(&self, p: Pub) -> &Words<S> {
        self.publics[p.0 as usize].as_ref().expect("the plan writes a register before it is read")
    }

    fn packed(&self, b: Bit) -> &Bits {
        self.bits[b.0 as usize].as_ref().expect("the plan writes a register before it is read")
    }

    /// What the live registers hold, one after another; wiped by the caller.
    pub(super) fn words(&self, live: &Live) -> Result<Vec<Fp61>, EngineError> {
        let mut parts: Vec<Words<S>> = Vec::new();
        live.secrets.iter().for_each(|x| parts.extend(self.sharing.output(self.secret(x.0))));
        parts.extend(live.publics.iter().map(|p| self.public(p.0).clone()));
        Ok(self.sharing.backend().read_all(&parts)?)
    }

    /// Fills the registers that are alive before a round, from what [`Machine::words`] gave.
    pub(super) fn begin_at(
        &mut self,
        plan: &Plan,
        round: usize,
        live: &Live,
        words: &[Fp61],
    ) -> Result<(), EngineError> {
        let (backend, mut rest) = (self.sharing.backend(), words);
        let mut next = |len: u64| {
            let (first, after) = rest.split_at(len as usize);
            rest = after;
            backend.load(first.to_vec())
        };
        for (x, len) in &live.secrets {
            let parts = (0..plan.words_per_share()).map(|_| next(*len)).collect();
            self.secrets[x.0 as usize] = Some(self.sharing.held(parts));
        }
        for (p, len) in &live.publics {
            self.publics[p.0 as usize] = Some(next(*len));
        }
        for prim in plan.rounds[..round].iter().flat_map(|round| &round.local).map(|i| &plan.prims[*i as usize]) {
            match prim {
                Prim::Input { input, .. } => self.inputs[*input as usize] = None,
                Prim::Constant { out, .. } if live.constants.contains(out) => {
                    self.local(plan, prim, &|_, _| Delta::default())?
                }
                _ => {}
            }
        }
        // What was expanded for rounds that are over is of no use.
        self.stock = Stock::new();
        Ok(())
    }

    /// Expands a piece of what the rounds from `from` on draw; false if nothing is left to do.
    pub(super) fn ahead(&mut self, plan: &Plan, from: usize) -> bool {
        self.stock.more(&self.sharing, plan, from, &self.drawing)
    }

    /// Drops what lies ready for the openings of a round that is not opened.
    pub(super) fn skip(&mut self, plan: &Plan, round: &Round) {
        for prim in round.open.iter().map(|i| &plan.prims[*i as usize]) {
            if let Some((address, _)) = ahead::drawn(prim, &self.drawing) {
                self.stock.take(address, plan.drawn_words(prim));
            }
        }
    }

    /// The raw words that a step draws: from the stock, or nothing of them expanded yet.
    fn raw(&mut self, plan: &Plan, prim: &Prim) -> Raw<S::Backend> {
        let (address, zero) = ahead::drawn(prim, &self.drawing).expect("called for steps that draw");
        let words = plan.drawn_words(prim);
        self.stock.take(address, words).unwrap_or_else(|| {
            let n = (words / plan.words_per_share()) as usize;
            if zero { self.sharing.zeros(address, n) } else { self.sharing.raw(address, n) }
        })
    }

    fn replicated(&self) -> &Replicated {
        self.sharing.packed().expect("the planner packs bits only where the roster has them")
    }

    pub(super) fn free_secrets(&mut self, round: &Round) {
        round.free_sec.iter().for_each(|s| self.secrets[s.0 as usize] = None);
    }

    pub(super) fn free(&mut self, round: &Round) {
        self.free_secrets(round);
        round.free_pub.iter().for_each(|p| self.publics[p.0 as usize] = None);
        round.free_bits.iter().for_each(|b| self.bits[b.0 as usize] = None);
    }

    /// Runs one local primitive; `delta` reads the verified, agreed words of
    /// the dealer's stream.
    pub(super) fn local<'a>(
        &mut self,
        plan: &Plan,
        prim: &Prim,
        delta: &dyn Fn(u64, u64) -> Delta<'a>,
    ) -> Result<(), EngineError> {
        if let Prim::Draw { out, .. } = prim
            && self.secrets[out.0 as usize].is_some()
        {
            // With a checkpoint, here or in an earlier attempt: what lies ready is not drawn.
            if let Some((address, _)) = ahead::drawn(prim, &self.drawing) {
                self.stock.take(address, plan.drawn_words(prim));
            }
            return Ok(());
        }
        // Before anything else is borrowed.
        let raw = matches!(prim, Prim::Input { .. } | Prim::Draw { .. }).then(|| self.raw(plan, prim));
        let s = &self.sharing;
        let secret = match prim {
            Prim::Constant { constant, out } => {
                let words = s.backend().load(plan.constants[*constant as usize].clone());
                self.publics[out.0 as usize] = Some(words);
                return Ok(());
            }
            Prim::ViewPublic { view, inputs, out } => {
                let inputs: Vec<_> = inputs.iter().map(|p| self.public(*p)).collect();
                self.publics[out.0 as usize] = Some(s.backend().view(view, &inputs));
                return Ok(());
            }
            Prim::DrawBits { .. } | Prim::BitLeaves { .. } | Prim::BitSign { .. } => {
                return self.local_bits(plan, prim, delta);
            }
            Prim::Leaf { c, thresholds, from, bits, one_hot, carry, g, p } => {
                let carry = carry.map(|c| self.secret(c));
                let (g_share, p_share) =
                    s.leaf(self.public(*c), thresholds, *from, *bits, self.secret(*one_hot), carry);
                self.secrets[g.0 as usize] = Some(g_share);
                self.secrets[p.0 as usize] = Some(p_share);
                return Ok(());
            }
            Prim::Input { input, .. } => {
                let delta = self.inputs[*input as usize].take().expect("the plan reads each input once");
                s.correct(raw.expect("an input is drawn"), true, Delta::from(&delta[..]))
            }
            Prim::Linear { secret, public, constant, out } => {
                let secret: Vec<_> = secret.iter().map(|(k, x)| (*k, self.secret(*x))).collect();
                let public: Vec<_> = public.iter().map(|(k, p)| (*k, self.public(*p))).collect();
                s.linear(plan.sec_lens[out.0 as usize], &secret, &public, *constant)
            }
            Prim::View { view, inputs, .. } => {
                let inputs: Vec<_> = inputs.iter().map(|x| self.secret(*x)).collect();
                s.view(view, &inputs)
            }
            Prim::Scale { dims, x, p, left: false, .. } => s.times_public(*dims, self.secret(*x), self.public(*p)),
            Prim::Scale { dims, x, p, left: true, .. } => s.public_times(*dims, self.public(*p), self.secret(*x)),
            Prim::Draw { material, part, .. } => {
                let (n, dealt, offset) = part_of::<S>(plan, *material, *part);
                let words = S::delta_words(plan.roster, n, dealt) as u64;
                s.correct(raw.expect("a draw is drawn"), dealt, delta(offset, words))
            }
            Prim::Beaver { dims, c, d, e, a, b, .. } => {
                s.beaver(*dims, self.secret(*c), self.public(*d), self.public(*e), self.secret(*a), self.secret(*b))
            }
            Prim::Shift { c, thresholds, by, high, msb, constant, .. } => {
                s.shift(self.public(*c), thresholds, *by, self.secret(*high), self.secret(*msb), *constant)
            }
            Prim::Open { .. }
            | Prim::OpenProduct { .. }
            | Prim::OpenBeaver { .. }
            | Prim::BitMerge { .. }
            | Prim::OpenBits { .. } => {
                unreachable!("the planner keeps openings apart")
            }
        };
        // One output each: Leaf, the exception, has returned above.
        let out = prim.written_sec().next().expect("every step that comes here writes a secret");
        self.secrets[out.0 as usize] = Some(secret);
        Ok(())
    }

    /// Local steps on packed bits, which live on the host.
    fn local_bits<'a>(
        &mut self,
        plan: &Plan,
        prim: &Prim,
        delta: &dyn Fn(u64, u64) -> Delta<'a>,
    ) -> Result<(), EngineError> {
        let packed = self.replicated();
        let backend = self.sharing.backend();
        match prim {
            Prim::DrawBits { material, out } => {
                let words = plan.bit_lens[out.0 as usize];
                let dealt = plan.material[material.0 as usize].material.parts().iter().any(|p| p.0 == Part::Rows);
                let corrections = dealt.then(|| {
                    let (n, _, offset) = part_of::<S>(plan, *material, Part::Rows);
                    packed::from_stream(&delta(offset, n as u64).to_vec(), words)
                });
                let address = self.material_address(*material, Part::Rows);
                let bits = packed.draw(address, words, corrections.as_deref());
                self.bits[out.0 as usize] = Some(bits);
            }
            Prim::BitLeaves { c, thresholds, leaves, lowest, rows, row, g, p } => {
                let c = backend.read(self.public(*c))?;
                let (g_bits, p_bits) =
                    packed.leaves(&c, thresholds, leaves, *lowest, self.packed(*rows), *row as usize);
                drop(c);
                self.bits[g.0 as usize] = Some(g_bits);
                self.bits[p.0 as usize] = Some(p_bits);
            }
            Prim::BitSign { c, thresholds, at, flip, rows, row, borrow, mask, out } => {
                let c = backend.read(self.public(*c))?;
                let (rows, borrow, mask) = (self.packed(*rows), self.packed(*borrow), self.packed(*mask));
                let bits = packed.sign(&c, thresholds, *at, *flip, rows, *row as usize, borrow, mask);
                drop(c);
                self.bits[out.0 as usize] = Some(bits);
            }
            other => unreachable!("no local step on packed bits: {other:?}"),
        }
        Ok(())
    }

    /// This node's part of an interactive step on packed bits.
    pub(super) fn say(&self, prim: &Prim) -> (Waiting, Said) {
        match prim {
            Prim::BitMerge { g, p, leaves, lowest, below, masks, .. } => {
                let below = below.map(|b| self.packed(b));
                let address = self.material_address(*masks, Part::Value);
                let pairs = (self.packed(*g), self.packed(*p));
                let (merging, said) = self.replicated().merge(pairs, *leaves as usize, *lowest, below, address);
                (Waiting::Merge(merging), said)
            }
            Prim::OpenBits { x, .. } => {
                let x = self.packed(*x);
                (Waiting::Open(x.clone()), self.replicated().opening(x))
            }
            other => unreachable!("no interactive step on packed bits: {other:?}"),
        }
    }

    /// Ends a step on packed bits with the vouched words from the next slot;
    /// the opened words, if it opens any.
    pub(super) fn told(&mut self, prim: &Prim, waiting: Waiting, words: &[u64]) -> Option<Vec<Fp61>> {
        match (prim, waiting) {
            (Prim::BitMerge { out_g, out_p, .. }, Waiting::Merge(merging)) => {
                let (g, p) = self.replicated().merged(merging, words);
                self.bits[out_g.0 as usize] = Some(g);
                self.bits[out_p.0 as usize] = Some(p);
                None
            }
            (Prim::OpenBits { rows, n, out, .. }, Waiting::Open(x)) => {
                let opened = self.replicated().opened(&x, words, *rows as usize, *n);
                self.publics[out.0 as usize] = Some(self.sharing.backend().load(opened.clone()));
                Some(opened)
            }
            (other, _) => unreachable!("no interactive step on packed bits: {other:?}"),
        }
    }

    /// This node's share of one opening.
    pub(super) fn share(&mut self, plan: &Plan, prim: &Prim) -> Words<S> {
        let zeros = matches!(prim, Prim::OpenProduct { .. }).then(|| self.raw(plan, prim));
        let s = &self.sharing;
        match prim {
            Prim::Open { x, .. } => s.opening(self.secret(*x)),
            Prim::OpenProduct { dims, x, y, mask, .. } => {
                let product = s.product(*dims, self.secret(*x), self.secret(*y));
                s.masked_product(product, self.secret(*mask), zeros.expect("a local product takes zeros"))
            }
            Prim::OpenBeaver { dims: Dims::Elementwise(_), .. } => s.opening(&self.beaver_masked(prim)),
            Prim::OpenBeaver { dims, c, d, e, a, b, mask, .. } => s.masked_beaver(
                *dims,
                self.secret(*c),
                self.public(*d),
                self.public(*e),
                self.secret(*a),
                self.secret(*b),
                self.secret(*mask),
            ),
            local => unreachable!("only openings have shares to send, not {local:?}"),
        }
    }

    /// c + D·b + a·E + D·E + mask as a secret, MACs included.
    fn beaver_masked(&self, prim: &Prim) -> S::Secret {
        let Prim::OpenBeaver { dims, c, d, e, a, b, mask, .. } = prim else {
            unreachable!("called for fused products alone")
        };
        let product = self.sharing.beaver(
            *dims,
            self.secret(*c),
            self.public(*d),
            self.public(*e),
            self.secret(*a),
            self.secret(*b),
        );
        let terms = [(Fp61::ONE, &product), (Fp61::ONE, self.secret(*mask))];
        self.sharing.linear(dims.lens().2, &terms, &[], Fp61::ZERO)
    }

    /// Stores opened words and says what a check owes them.
    pub(super) fn opened(&mut self, prim: &Prim, words: Words<S>) -> Option<Owed<S>> {
        let out = prim.written_pub().expect("every opening writes a public register");
        let owed = S::OWES.then(|| match prim {
            Prim::Open { x, .. } => Owed::Words { opened: words.clone(), secret: self.secret(*x).clone() },
            Prim::OpenBeaver { dims: Dims::Matmul { m, k, n }, c, d, e, a, b, mask, .. } => Owed::Matrix {
                dims: (*m, *k, *n),
                secrets: [*c, *a, *b, *mask].map(|x| self.secret(x).clone()),
                operands: [*d, *e].map(|p| self.public(p).clone()),
                opened: words.clone(),
            },
            prim => Owed::Words { opened: words.clone(), secret: self.beaver_masked(prim) },
        });
        self.publics[out.0 as usize] = Some(words);
        owed
    }

    fn material_address(&self, material: MaterialId, part: Part) -> Address {
        crate::material::address(material, part, self.drawing.of(material))
    }
}

/// Length of a part, whether it is dealt, and where its Δ begins.
fn part_of<S: Sharing>(plan: &Plan, material: MaterialId, part: Part) -> (usize, bool, u64) {
    let Demand { material, offset, .. } = &plan.material[material.0 as usize];
    let mut start = *offset;
    for (p, n, dealt) in material.parts() {
        if p == part {
            return (n, dealt, start);
        }
        start += S::delta_words(plan.roster, n, dealt) as u64;
    }
    unreachable!("the planner draws only parts that exist")
}

/// The own share and those of the peers, cut at the openings of the round.
pub(super) fn cut<S: Sharing>(
    sharing: &S,
    lens: &[usize],
    own: &[Words<S>],
    received: &mut [(Slot, Vec<Fp61>)],
) -> Vec<Vec<Words<S>>> {
    let n = usize::from(sharing.roster().nodes());
    let mut cut: Vec<Vec<Option<Words<S>>>> = lens.iter().map(|_| vec![None; n]).collect();
    for (i, words) in own.iter().enumerate() {
        cut[i][sharing.slot().index()] = Some(words.clone());
    }
    for (from, words) in received {
        let backend = sharing.backend();
        let (whole, mut at) = (backend.load(std::mem::take(words)), 0);
        for (cut, len) in cut.iter_mut().zip(lens) {
            cut[from.index()] = Some(backend.part(&whole, at..at + len));
            at += len;
        }
    }
    cut.into_iter().map(|shares| shares.into_iter().flatten().collect()).collect()
}
