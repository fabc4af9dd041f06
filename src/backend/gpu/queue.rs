//! What goes to the device and what comes back: recorded work, staged bytes,
//! resident buffers.
//!
//! Work is recorded and submitted in batches. A batch is two command buffers:
//! first the uploads, then all dispatches; so an upload may only go into a
//! buffer that no recorded dispatch uses, which holds because a released
//! buffer is handed out again only after the batch in which it was used.
//!
//! **Secrets.** Words and parameters (a MAC key is one) go through staging
//! buffers of our own that are mapped, and written over as soon as the device
//! has taken the words; wgpu's `write_buffer` keeps what it staged until the
//! device is dropped. A buffer is cleared on the device when it is released,
//! before anything else may have it, and so is what was downloaded through.
//! Nothing but zeros ever lies in the pool.
//!
//! **Faults.** After a device is lost every call still says that all went
//! well, but for polling, which panics if the driver took the device away. So a
//! download counts only if its mapping succeeded and no fault has been reported
//! by then; a fault is for ever.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wgpu::{BufferUsages, DeviceLostReason, MapMode, PollType};
use zeroize::{Zeroize, Zeroizing};

use super::kernels::{Kernel, Pipelines};
use crate::field::Fp61;

/// Parameters of one batch, in 32-bit words, at most.
const PARAMS: usize = 1 << 18;
/// Where the parameters of a dispatch may begin, in 32-bit words: the alignment
/// that every device grants.
const PARAMS_ALIGN: usize = 64;
/// Dispatches of one batch.
const DISPATCHES: usize = 512;
/// Bytes that may wait in a batch, staged or released.
const WAITING: u64 = 64 << 20;
/// Bytes of a staging buffer, unless one upload needs more.
const CHUNK: u64 = 1 << 20;
/// Bytes of idle staging buffers that are kept.
const IDLE: u64 = 32 << 20;

/// What the device reported, once and for ever.
#[derive(Clone, Default)]
pub struct Fault(Arc<Mutex<Report>>);

#[derive(Default)]
struct Report {
    what: Option<String>,
    lost: bool,
}

impl Fault {
    fn lock(&self) -> MutexGuard<'_, Report> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Keeps the first report: later ones follow from it.
    pub fn report(&self, what: &str) {
        let what = one_line(what);
        tracing::warn!(fault = what, "the GPU failed");
        self.lock().what.get_or_insert(what);
    }
    /// A loss, which may be told after what follows from it, is the reason. At
    /// no moment is there none: a download may be looking.
    fn report_loss(&self, reason: DeviceLostReason, message: &str) {
        let what = one_line(&format!("the device was lost ({reason:?}): {message}"));
        tracing::warn!(fault = what, "the GPU failed");
        let mut report = self.lock();
        if !std::mem::replace(&mut report.lost, true) {
            report.what = Some(what);
        }
    }
    /// The first report, if there is one.
    pub fn get(&self) -> Option<String> {
        self.lock().what.clone()
    }
    fn is_loss(&self) -> bool {
        self.lock().lost
    }

    /// Runs a call of wgpu that panics if the driver took the device away
    /// (30.0: `Device::poll`, when it holds no lock any more).
    fn outlive<T>(&self, call: impl FnOnce() -> T) -> Option<T> {
        let told = |panic: Box<dyn std::any::Any + Send>| {
            self.report_loss(DeviceLostReason::Unknown, panic.downcast_ref::<String>().map_or("", String::as_str));
        };
        catch_unwind(AssertUnwindSafe(call)).map_err(told).ok()
    }
}

/// Drivers write several lines.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A resident buffer. It is cleared and given back when it is dropped.
pub struct Held {
    queue: Queue,
    /// `None` only while it is dropped
    buffer: Option<wgpu::Buffer>,
}

impl Held {
    fn buffer(&self) -> &wgpu::Buffer {
        self.buffer.as_ref().expect("taken by drop alone")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.queue.state().released.push(buffer);
        }
    }
}

/// A part of a resident buffer, as a kernel sees it: words from `first` on.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    pub held: &'a Held,
    pub first: usize,
    pub words: usize,
}

/// Bytes that have crossed the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// words uploaded (parameters of kernels are not counted)
    pub up: u64,
    /// words downloaded
    pub down: u64,
}

/// The queue of one device, shared by its clones.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

struct Shared {
    device: wgpu::Device,
    queue: wgpu::Queue,
    fault: Fault,
    pipelines: Pipelines,
    /// bytes that may be resident, the pool included
    budget: u64,
    /// bytes of the largest buffer
    largest: u64,
    params: wgpu::Buffer,
    state: Mutex<State>,
    /// staging buffers that the device has read, mapped again but not yet wiped
    returned: Arc<Mutex<Vec<Chunk>>>,
}

impl Drop for Shared {
    /// Wipes what was released since the last batch, and what was staged; what
    /// the open batch would compute nobody can read any more.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(state.pass.take());
        (state.work, state.uploads) = (None, None);
        state.staged.drain(..).for_each(|mut chunk| chunk.wipe());
        if self.fault.get().is_some() {
            return;
        }
        let mut clear = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        state.released.iter().for_each(|buffer| clear.clear_buffer(buffer, 0, None));
        let index = self.queue.submit([clear.finish()]);
        self.fault.outlive(|| self.device.poll(PollType::Wait { submission_index: Some(index), timeout: None }));
        let returned = std::mem::take(&mut *self.returned.lock().unwrap_or_else(PoisonError::into_inner));
        returned.into_iter().for_each(|mut chunk| chunk.wipe());
    }
}

#[derive(Default)]
struct State {
    /// the batch: uploads, and the pass of all dispatches (dropped before its encoder ends)
    uploads: Option<wgpu::CommandEncoder>,
    pass: Option<wgpu::ComputePass<'static>>,
    work: Option<wgpu::CommandEncoder>,
    dispatches: usize,
    /// what they cost, in multiply-adds
    steps: u64,
    /// parameters of the batch; allocated once, so that no copy is left behind
    params: Zeroizing<Vec<u32>>,
    /// staging buffers written in this batch
    staged: Vec<Chunk>,
    /// wiped staging buffers, mapped
    idle: Vec<Chunk>,
    /// dropped in this batch, to be cleared at its end
    released: Vec<wgpu::Buffer>,
    /// cleared buffers by their size
    pool: BTreeMap<u64, Vec<wgpu::Buffer>>,
    downloads: HashMap<u64, Vec<wgpu::Buffer>>,
    resident: u64,
    traffic: Traffic,
}

struct Chunk {
    buffer: wgpu::Buffer,
    used: u64,
}

impl Chunk {
    /// Overwrites what was staged; it must be mapped.
    fn wipe(&mut self) {
        if let Ok(mut view) = self.buffer.get_mapped_range_mut(..self.used) {
            view.slice(..).fill(0);
        }
        self.used = 0;
    }
}

impl Queue {
    /// The handlers of errors must be installed before anything else.
    pub fn new(device: wgpu::Device, queue: wgpu::Queue, budget: u64, largest: u64) -> Self {
        let fault = Fault::default();
        let (uncaught, lost) = (fault.clone(), fault.clone());
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| uncaught.report(&error.to_string())));
        device.set_device_lost_callback(move |reason, message| lost.report_loss(reason, &message));
        let params = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters"),
            size: 4 * PARAMS as u64,
            usage: BufferUsages::STORAGE | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let state = State { params: Zeroizing::new(Vec::with_capacity(PARAMS)), ..State::default() };
        Self(Arc::new(Shared {
            device,
            queue,
            fault,
            pipelines: Pipelines::default(),
            budget,
            largest,
            params,
            state: Mutex::new(state),
            returned: Arc::default(),
        }))
    }

    /// What the device reported, if it failed.
    pub fn fault(&self) -> Option<String> {
        self.0.fault.get()?;
        // A loss is told when the queue has run empty; until then one hears
        // only of what follows from it.
        self.poll(PollType::wait_indefinitely());
        self.0.fault.get()
    }

    /// Lets callbacks run; whether the device did what was asked. One that is
    /// lost is left alone.
    fn poll(&self, how: PollType) -> bool {
        let device = &self.0.device;
        !self.0.fault.is_loss() && self.0.fault.outlive(|| device.poll(how)).is_some_and(|done| done.is_ok())
    }
    /// Gives the device up: what it computes from here on fails.
    pub fn destroy(&self) {
        self.0.device.destroy();
    }
    /// What has crossed the bus so far.
    pub fn traffic(&self) -> Traffic {
        self.state().traffic
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A cleared buffer for so many words; why not, if the budget is spent.
    pub fn allocate(&self, words: usize) -> Result<Held, String> {
        let bytes = size_class(8 * words as u64);
        if bytes > self.0.largest {
            let (found, most) = (bytes >> 20, self.0.largest >> 20);
            return Err(format!(
                "a tensor of {found} MiB is larger than its buffers of {most} MiB: compute on the CPU"
            ));
        }
        let mut state = self.state();
        if let Some(buffer) = state.pool.get_mut(&bytes).and_then(Vec::pop) {
            return Ok(self.hold(buffer));
        }
        if state.resident + bytes > self.0.budget {
            // What was released comes into the pool, which is then emptied.
            self.submit(&mut state);
            if let Some(buffer) = state.pool.get_mut(&bytes).and_then(Vec::pop) {
                return Ok(self.hold(buffer));
            }
            let pooled: u64 = std::mem::take(&mut state.pool).iter().map(|(size, b)| size * b.len() as u64).sum();
            state.resident -= pooled;
        }
        if state.resident + bytes > self.0.budget {
            let (used, budget) = (state.resident >> 20, self.0.budget >> 20);
            return Err(format!(
                "{} MiB more are needed, {used} of {budget} MiB are in use: give it more memory, or compute on the CPU",
                bytes.div_ceil(1 << 20)
            ));
        }
        state.resident += bytes;
        drop(state);
        Ok(self.hold(self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("words"),
            size: bytes,
            usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })))
    }

    fn hold(&self, buffer: wgpu::Buffer) -> Held {
        Held { queue: self.clone(), buffer: Some(buffer) }
    }

    /// Writes words into a buffer that was just allocated.
    pub fn upload(&self, to: &Held, words: &[Fp61]) {
        let bytes = 8 * words.len() as u64;
        let mut state = self.state();
        state.traffic.up += words.len() as u64;
        let offset = self.stage(&mut state, bytes, |mut room| {
            for words in words.chunks(512) {
                let mut raw = Zeroizing::new([0; 4096]);
                for (raw, word) in raw.as_chunks_mut().0.iter_mut().zip(words) {
                    *raw = word.word().to_le_bytes();
                }
                room.copy_next(&raw[..8 * words.len()]);
            }
        });
        let State { uploads, staged, .. } = &mut *state;
        let (Some(chunk), Some(uploads)) = (staged.last(), uploads) else { return };
        uploads.copy_buffer_to_buffer(&chunk.buffer, offset, to.buffer(), 0, bytes);
        self.submit_if_full(&mut state);
    }

    /// Lets `write` fill room at the end of the batch's last staging buffer,
    /// which is a new one if need be; where the room begins.
    fn stage(&self, state: &mut State, bytes: u64, write: impl FnOnce(Room<'_>)) -> u64 {
        let device = &self.0.device;
        state.uploads.get_or_insert_with(|| device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default()));
        if state.staged.last().is_none_or(|chunk| chunk.used + bytes > chunk.buffer.size()) {
            self.recall(state);
            let fit = state.idle.iter().position(|chunk| chunk.buffer.size() >= bytes);
            let chunk = fit.map(|at| state.idle.swap_remove(at)).unwrap_or_else(|| Chunk {
                buffer: device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("upload"),
                    size: bytes.max(CHUNK).next_multiple_of(CHUNK),
                    usage: BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC,
                    mapped_at_creation: true,
                }),
                used: 0,
            });
            state.staged.push(chunk);
        }
        let chunk = state.staged.last_mut().expect("pushed if there was none");
        let offset = chunk.used;
        // Mappings begin at multiples of 8.
        chunk.used += bytes.next_multiple_of(8);
        match chunk.buffer.get_mapped_range_mut(offset..offset + bytes.next_multiple_of(8)) {
            Ok(mut view) => write(Room { rest: view.slice(..) }),
            // Not mapped: its device is gone.
            Err(error) => self.0.fault.report(&format!("an upload buffer cannot be written: {error}")),
        }
        offset
    }

    /// Wipes what the device has read and mapped again.
    fn recall(&self, state: &mut State) {
        // Callbacks of mappings run in here.
        self.poll(PollType::Poll);
        let returned = std::mem::take(&mut *self.0.returned.lock().unwrap_or_else(PoisonError::into_inner));
        for mut chunk in returned {
            chunk.wipe();
            let idle: u64 = state.idle.iter().map(|chunk| chunk.buffer.size()).sum();
            if idle + chunk.buffer.size() <= IDLE {
                state.idle.push(chunk);
            }
        }
    }

    /// Records one dispatch of `groups` workgroups. `bound` are the kernel's
    /// buffers from binding 1 on, `params` what it binds at 0.
    pub fn dispatch(&self, kernel: Kernel, params: &[u32], bound: &[Window<'_>], groups: [u32; 2]) {
        if groups.contains(&0) || self.fault().is_some() {
            return;
        }
        let pipeline = self.0.pipelines.get(&self.0.device, kernel);
        let mut state = self.state();
        let start = state.params.len().next_multiple_of(PARAMS_ALIGN);
        let start = if start + params.len() > PARAMS {
            self.submit(&mut state);
            0
        } else {
            start
        };
        state.params.resize(start, 0);
        state.params.extend_from_slice(params);
        let mut entries = vec![wgpu::BindGroupEntry {
            binding: 0,
            resource: binding(&self.0.params, 4 * start as u64, 4 * params.len() as u64),
        }];
        entries.extend((1..).zip(bound).map(|(number, window)| wgpu::BindGroupEntry {
            binding: number,
            resource: binding(window.held.buffer(), 8 * window.first as u64, 8 * window.words as u64),
        }));
        let group = self.0.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let State { work, pass, .. } = &mut *state;
        let work = work
            .get_or_insert_with(|| self.0.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default()));
        let pass = pass
            .get_or_insert_with(|| work.begin_compute_pass(&wgpu::ComputePassDescriptor::default()).forget_lifetime());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(groups[0], groups[1], 1);
        state.dispatches += 1;
        // To move a word takes as long as a few multiply-adds.
        let moved: usize = bound.iter().map(|window| window.words).sum();
        state.steps += kernel.steps(params).max(4 * moved as u64);
        self.submit_if_full(&mut state);
    }

    fn submit_if_full(&self, state: &mut State) {
        let staged: u64 = state.staged.iter().map(|chunk| chunk.used).sum();
        let released: u64 = state.released.iter().map(wgpu::Buffer::size).sum();
        if state.dispatches >= DISPATCHES || state.steps >= super::WORK as u64 || staged + released > WAITING {
            self.submit(state);
        }
    }

    /// Sends the batch off: uploads, dispatches, `then` what else is to be
    /// copied, and the clearing of what was released.
    fn submit_with(&self, state: &mut State, then: impl FnOnce(&mut wgpu::CommandEncoder)) -> wgpu::SubmissionIndex {
        let params = std::mem::take(&mut state.params);
        if !params.is_empty() {
            let bytes = 4 * params.len() as u64;
            let offset = self.stage(state, bytes, |mut room| {
                for params in params.chunks(1024) {
                    let mut raw = Zeroizing::new([0; 4096]);
                    for (raw, word) in raw.as_chunks_mut().0.iter_mut().zip(params) {
                        *raw = word.to_le_bytes();
                    }
                    room.copy_next(&raw[..4 * params.len()]);
                }
            });
            if let (Some(chunk), Some(uploads)) = (state.staged.last(), &mut state.uploads) {
                uploads.copy_buffer_to_buffer(&chunk.buffer, offset, &self.0.params, 0, bytes);
            }
        }
        state.params = params;
        // The pass must end before its encoder does.
        drop(state.pass.take());
        let mut work = state
            .work
            .take()
            .unwrap_or_else(|| self.0.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default()));
        then(&mut work);
        if !state.params.is_empty() {
            work.clear_buffer(&self.0.params, 0, Some(4 * state.params.len() as u64));
        }
        // `clear` keeps the allocation, so the words are wiped by hand.
        state.params.as_mut_slice().zeroize();
        state.params.clear();
        let released = std::mem::take(&mut state.released);
        released.iter().for_each(|buffer| work.clear_buffer(buffer, 0, None));
        let staged = std::mem::take(&mut state.staged);
        staged.iter().for_each(|chunk| chunk.buffer.unmap());
        let uploads = state.uploads.take().map(wgpu::CommandEncoder::finish);
        let index = self.0.queue.submit(uploads.into_iter().chain([work.finish()]));
        for chunk in staged {
            let (returned, buffer) = (Arc::clone(&self.0.returned), chunk.buffer.clone());
            buffer.map_async(MapMode::Write, .., move |mapped| {
                // Otherwise the device is gone, and its memory with it.
                if mapped.is_ok() {
                    returned.lock().unwrap_or_else(PoisonError::into_inner).push(chunk);
                }
            });
        }
        for buffer in released {
            state.pool.entry(buffer.size()).or_default().push(buffer);
        }
        (state.dispatches, state.steps) = (0, 0);
        index
    }

    fn submit(&self, state: &mut State) {
        self.submit_with(state, |_| {});
        self.recall(state);
    }

    /// The words of several buffers, one after the other, when everything
    /// recorded so far is done.
    pub fn download(&self, parts: &[Window<'_>]) -> Result<Zeroizing<Vec<Fp61>>, String> {
        let words: usize = parts.iter().map(|part| part.words).sum();
        let mut out = Zeroizing::new(Vec::with_capacity(words));
        if words == 0 {
            return self.fault().map_or(Ok(out), Err);
        }
        let bytes = size_class(8 * words as u64);
        let mut state = self.state();
        state.traffic.down += words as u64;
        let landing = state.downloads.get_mut(&bytes).and_then(Vec::pop).unwrap_or_else(|| {
            self.0.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("download"),
                size: bytes,
                usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        let index = self.submit_with(&mut state, |work| {
            let mut to = 0;
            for part in parts {
                let (from, bytes) = (8 * part.first as u64, 8 * part.words as u64);
                work.copy_buffer_to_buffer(part.held.buffer(), from, &landing, to, bytes);
                to += bytes;
            }
        });
        drop(state);
        let (report, mapped) = channel();
        landing.map_async(MapMode::Read, ..8 * words as u64, move |result| drop(report.send(result)));
        let waited = self.poll(PollType::Wait { submission_index: Some(index), timeout: None });
        let mapped = loop {
            if let Some(fault) = self.fault() {
                return Err(fault);
            }
            // Another thread's poll may have taken the callback and not yet run it.
            match mapped.recv_timeout(Duration::from_millis(1)) {
                Ok(mapped) => break mapped.is_ok(),
                Err(RecvTimeoutError::Timeout) => drop(self.poll(PollType::Poll)),
                Err(RecvTimeoutError::Disconnected) => break false,
            }
        };
        if !waited || !mapped {
            self.0.fault.report(if waited {
                "a download could not be mapped"
            } else {
                "a download was not waited for"
            });
        }
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        let view = landing.get_mapped_range(..8 * words as u64).map_err(|e| e.to_string())?;
        out.extend(view.as_chunks().0.iter().map_while(|raw| Fp61::new(u64::from_le_bytes(*raw))));
        drop(view);
        landing.unmap();
        let mut clear = self.0.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        clear.clear_buffer(&landing, 0, None);
        self.0.queue.submit([clear.finish()]);
        let mut state = self.state();
        self.recall(&mut state);
        // Small ones come back often, large ones are not worth their memory.
        if bytes <= CHUNK {
            state.downloads.entry(bytes).or_default().push(landing);
        }
        drop(state);
        // The word itself may be a secret's.
        if out.len() < words {
            self.0.fault.report("the device computed a word that is no field element");
            return Err(self.fault().unwrap_or_default());
        }
        Ok(out)
    }

    /// Waits until everything recorded is done, wiped and given back. Others
    /// may go on recording.
    pub fn settle(&self) {
        let index = self.submit_with(&mut self.state(), |_| {});
        self.poll(PollType::Wait { submission_index: Some(index), timeout: None });
        self.recall(&mut self.state());
    }
}

/// Room in a staging buffer, filled from its beginning.
struct Room<'a> {
    rest: wgpu::WriteOnly<'a, [u8]>,
}

impl Room<'_> {
    fn copy_next(&mut self, bytes: &[u8]) {
        if let Some(mut head) = self.rest.split_off(..bytes.len()) {
            head.copy_from_slice(bytes);
        }
    }
}

fn binding(buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> wgpu::BindingResource<'_> {
    wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(bytes) })
}

/// Sizes are rounded up by at most a quarter, so that buffers fit again.
fn size_class(bytes: u64) -> u64 {
    let step = (bytes.next_power_of_two() / 8).max(256);
    bytes.next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody may ever use the device again.
    #[test]
    fn a_job_that_is_over_leaves_nothing_to_be_wiped() {
        use crate::backend::Device;
        use crate::backend::gpu::{Options, open_test_device};
        let Some(gpu) = open_test_device(Options { software: true, ..Options::default() }) else { return };
        let b = crate::program::Builder::new();
        let x = b.input("x", "alice", crate::program::Type::fixed(-4.0..=4.0), [20, 30]);
        b.output("z", "alice", &(&x * &x));
        let (program, inputs) = (b.finish().unwrap(), [("x", vec![1.5; 600])]);
        let (roster, entropy) =
            (crate::roster::Roster::spdz(2).unwrap(), crate::entropy::Entropy::insecure_from_seed(1));
        crate::job::local::run_with(&program, roster, Default::default(), &inputs, entropy, &Device::Gpu(gpu.clone()))
            .unwrap();
        let state = gpu.queue.state();
        let used: u64 = state.idle.iter().map(|chunk| chunk.used).sum();
        assert_eq!((state.released.len(), state.staged.len(), state.params.len(), used), (0, 0, 0, 0));
        assert!(!state.pool.is_empty() && gpu.queue.0.returned.lock().unwrap().is_empty());
    }

    /// A driver that takes its device away is not to be had at will; what wgpu
    /// then does is.
    #[test]
    fn a_panic_of_the_loss_is_a_fault_and_the_reason() {
        let fault = Fault::default();
        assert_eq!(fault.outlive(|| 7), Some(7));
        fault.report("what\nfollows");
        assert_eq!(fault.get().unwrap(), "what follows");
        let device = "Validation Error\n\nCaused by:\n  Parent device is lost\n";
        assert_eq!(fault.outlive(|| -> u32 { panic!("Error in Device::poll: {device}") }), None);
        let told = fault.get().unwrap();
        assert!(told.starts_with("the device was lost (Unknown): Error in Device::poll: Validation Error"), "{told}");
        assert!(fault.is_loss() && !told.contains('\n'));
        fault.report_loss(DeviceLostReason::Destroyed, "again");
        fault.report("later");
        assert_eq!(fault.get().unwrap(), told);
    }
}
