//! One node's part of sharing: drawing material, the share of a masked
//! product, decoding an opening. `cargo bench --no-default-features --bench sharing`.

use beaverdam::backend::Backend;
use beaverdam::backend::cpu::Cpu;
use beaverdam::field::Fp61;
use beaverdam::prg::{Address, Domain, PrgKey};
use beaverdam::roster::{Degree, Roster, Slot};
use beaverdam::sharing::{Shamir, Sharing, SlotKeys, Spdz, job_keys};
use beaverdam::tensor::Dims;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const N: usize = 1_000_000;

fn address(op: u32) -> Address {
    Address { domain: Domain::Value, input: false, op, part: 0, attempt: 0 }
}

fn shamir(n: u8, t: u8) -> Vec<Shamir<Cpu>> {
    let roster = Roster::shamir(n, t).expect("a valid roster");
    let dealer = job_keys(&PrgKey([7; 32]), &[0; 32], roster);
    let node = |slot: Slot| match dealer.slot_keys(slot) {
        SlotKeys::Shamir(keys) => Shamir::new(roster, slot, keys, Cpu).expect("the slot's own keys"),
        SlotKeys::Spdz(_) => unreachable!("the roster is Shamir's"),
    };
    roster.slots().map(node).collect()
}

fn shamir_4_1(c: &mut Criterion) {
    let nodes = shamir(4, 1);
    let mut group = c.benchmark_group("Shamir (4, 1), 10^6 words");
    group.sample_size(10).throughput(Throughput::Elements(N as u64));
    group.bench_function("draw", |b| b.iter(|| nodes[0].draw(address(0), N, false, &[])));
    let draw = |node: &Shamir<Cpu>, op| node.draw(address(op), N, false, &[]);
    let (x, y, mask) = (draw(&nodes[0], 1), draw(&nodes[0], 2), draw(&nodes[0], 3));
    group.bench_function("share of a masked product", |b| {
        let product = || nodes[0].product(Dims::Elementwise(N), &x, &y);
        b.iter(|| nodes[0].masked_product(product(), &mask, nodes[0].zeros(address(4), N)));
    });
    let share = |node: &Shamir<Cpu>| {
        let product = node.product(Dims::Elementwise(N), &draw(node, 1), &draw(node, 2));
        node.masked_product(product, &draw(node, 3), node.zeros(address(4), N))
    };
    let shares: Vec<_> = nodes.iter().map(share).collect();
    let all: Vec<_> = (1..=4).map(Slot).collect();
    group.bench_function("open, degree 2t, checked", |b| {
        b.iter(|| nodes[0].decode(Degree::TwoT, &all, &shares).map(|d| d.words).expect("honest shares"));
    });
    group.finish();
}

fn spdz_3(c: &mut Criterion) {
    let roster = Roster::spdz(3).expect("a valid roster");
    let SlotKeys::Spdz(key) = job_keys(&PrgKey([7; 32]), &[0; 32], roster).slot_keys(Slot(1)) else {
        unreachable!("the roster is SPDZ's")
    };
    let node = Spdz::new(roster, Slot(1), key, Cpu).expect("the slot's own key");
    let delta = vec![Fp61::ONE; 2 * N];
    let mut group = c.benchmark_group("SPDZ (3), 10^6 words");
    group.sample_size(10).throughput(Throughput::Elements(N as u64));
    group.bench_function("draw, dealt", |b| b.iter(|| node.draw(address(0), N, true, &delta)));
    let share = Cpu.load(vec![Fp61::ONE; N]);
    let shares = [share.clone(), share.clone(), share];
    group.bench_function("open", |b| {
        b.iter(|| {
            node.decode(Degree::T, &[Slot(1), Slot(2), Slot(3)], &shares).map(|d| d.words).expect("sums always decode")
        });
    });
    group.finish();
}

criterion_group!(sharing, shamir_4_1, spdz_3);
criterion_main!(sharing);
