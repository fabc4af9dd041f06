//! docs/performance.md from runs on this machine: what the works take, beside
//! what peers took, and how that grows.

use std::fmt::Write as _;
use std::path::Path;

use beaverdam::backend::Backend;
use beaverdam::backend::cpu::Cpu;
use beaverdam::field::Fp61;
use beaverdam::roster::{Roster, Scheme};
use beaverdam::tensor::Dims;

use crate::Fault;
use crate::agents::own_cpu_seconds;
use crate::measure::{Line, Overhead, Setting, measure};
use crate::picture::{Curve, draw};
use crate::works::Work;

/// The works of the table, with what peers took: CPU seconds of all their
/// processes and megabytes that all sent. Their figures are from earlier runs
/// on a machine of the same kind (2 virtual cores) and are not measured here.
const WORKS: [(Work, &str, [&str; 3]); 8] = [
    (Work::Mul(1_000_000), "10^6 integer products", ["0.23, 24", "0.60, 32", "0.27, 32"]),
    (Work::FixedMul(1_000_000), "10^6 fixed-point products", ["0.55, 52", "0.69, 40", "0.33, 32"]),
    (Work::Matmul(256, 256, 256), "matrix product 256³", ["0.16, 3.4", "0.18, 2.6", "0.41, 2.1"]),
    (Work::Matmul(1024, 1024, 1024), "matrix product 1024³", ["3.73, 55", "3.47, 42", "69.9, 34"]),
    (Work::Logistic(10), "logistic regression, 569×30, 10 epochs", ["1.95, 9.5", "0.86, 10.5", "2.06, 9.0"]),
    (Work::Mlp(128), "perceptron 784-128-128-10, batch 128", ["0.88, 7.5", "0.83, 9.0", "0.65, 19"]),
    (Work::Compare(1_000_000), "10^6 comparisons x ≥ 0 (SPDZ: 10^5)", ["5.83, 108", "3.19, 112", "4.60, 432"]),
    (Work::Relu(1_000_000), "10^6 ReLU (SPDZ: 10^5)", ["6.26, 172", "3.94, 144", "4.23, 465"]),
];
const PEERS: [&str; 3] =
    ["SPU 0.9.5 ABY3, 3 nodes", "SPU 0.9.5 SEMI2K, 2 nodes, one deals", "CrypTen 0.4.1, 2 nodes, one deals"];

/// Measures everything and writes the page, its pictures beside it.
pub fn write(path: &Path, setting: &Setting, show: &mut dyn FnMut(&Line)) -> Result<(), Fault> {
    let rosters = [Roster::shamir(4, 1)?, Roster::spdz(3)?];
    let mut measured = Vec::new();
    for (work, ..) in WORKS {
        let on = |roster, show: &mut dyn FnMut(&Line)| {
            measure(fitting(work, roster), &Setting { roster, ..setting.clone() }, show)
        };
        measured.push([on(rosters[0], show)?, on(rosters[1], show)?]);
    }
    let mut page = head(setting, &measured);
    page += &table(&measured)?;
    page += &ratios(setting, &measured, show)?;
    page += &scaling(path, &Setting { repeat: setting.repeat.min(3), ..setting.clone() }, show)?;
    std::fs::write(path, page).map_err(|e| format!("cannot write {}: {e}", path.display()).into())
}

/// What fits on one machine: three SPDZ nodes that compare 10^6 words by digits
/// take 5.6 GB each.
fn fitting(work: Work, roster: Roster) -> Work {
    match work {
        Work::Compare(n) if roster.scheme() == Scheme::Spdz => Work::Compare(n / 10),
        Work::Relu(n) if roster.scheme() == Scheme::Spdz => Work::Relu(n / 10),
        work => work,
    }
}

fn head(setting: &Setting, measured: &[[Vec<Line>; 2]]) -> String {
    let loads: Vec<f64> = measured.iter().flatten().flatten().filter_map(|line| line.load).collect();
    let load = match loads.iter().copied().reduce(f64::max) {
        Some(most) => format!("a load of up to {most:.1} by these and other processes"),
        None => "a load that this system does not tell".to_owned(),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "# Performance\n\n\
         This page is written by one command and holds what it measured, medians of {} runs:\n\n\
         ```text\ncargo run --release --example bench -- --report docs/performance.md --repeat {} --backend cpu\n```\n\n\
         All nodes are processes of one machine ({}, {cores} cores) and speak over its loopback interface, \
         with {load}: seconds of CPU are the steadier figure. \
         Plans are made for 0.05 ms and 10 Gbit/s. Every result was compared with the same work in the clear.\n",
        setting.repeat,
        setting.repeat,
        processor(),
    )
}

/// proc(5): the first `model name` of `cpuinfo`.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| "an unnamed processor".to_owned(), |(_, name)| name.trim().to_owned())
}

fn table(measured: &[[Vec<Line>; 2]]) -> Result<String, Fault> {
    let mut page = format!(
        "\n## Works\n\n\
         The owner deals the correlated randomness while the nodes compute. CPU is user and system time of all nodes \
         and the owner, from masking to the last receipt, start-up and opening of keys excluded; seconds of wall time \
         are from verified inputs to the last receipt. MB are what all nodes together sent to each other, then what \
         the owner sent to all nodes. Beaverdam's nodes notice cheating; the peers are semi-honest: they assume that \
         every node follows the protocol. Peers: CPU s, MB sent by all; measured before on a machine of this kind, \
         not in these runs.\n\n\
         | work | Shamir (4, 1): CPU s | wall s | MB | MB from owner | SPDZ (3): CPU s | wall s | MB | MB from owner | {} |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
        PEERS.join(" | ")
    );
    for ((_, name, peers), rosters) in WORKS.iter().zip(measured) {
        write!(page, "| {name} ")?;
        for lines in rosters {
            let (online, total) = (phase(lines, "online")?, phase(lines, "total")?);
            let cpu = total.cpu_s.zip(total.owner_cpu_s).map_or("–".to_owned(), |(a, b)| digits(a + b));
            let sent = total.sent_bytes as f64 / 1e6;
            let dealt = f64::from(total.nodes) * (total.input_bytes + total.stream_bytes) as f64 / 1e6;
            write!(page, "| {cpu} | {} | {} | {} ", digits(online.wall_s), digits(sent), digits(dealt))?;
        }
        writeln!(page, "| {} |", peers.join(" | "))?;
    }
    page += "\nCPU of the nodes alone in the online phase, rounds, and the largest node:\n\n\
             | work | Shamir (4, 1): CPU s | rounds | peak MB | SPDZ (3): CPU s | rounds | peak MB |\n\
             |---|---|---|---|---|---|---|\n";
    for ((_, name, _), rosters) in WORKS.iter().zip(measured) {
        write!(page, "| {name} ")?;
        for lines in rosters {
            let online = phase(lines, "online")?;
            let shown = |value: Option<f64>| value.map_or("–".to_owned(), digits);
            write!(page, "| {} | {} | {} ", shown(online.cpu_s), online.rounds, shown(online.peak_mb))?;
        }
        writeln!(page, "|")?;
    }
    Ok(page)
}

/// What a job takes beside what it cannot do without, in the same run.
fn ratios(setting: &Setting, measured: &[[Vec<Line>; 2]], show: &mut dyn FnMut(&Line)) -> Result<String, Fault> {
    let mul = phase(&measured[0][0], "online")?;
    // What nodes send online: to each other, and their sealed results.
    let all = measure(Work::Wire((mul.bytes_per_node + mul.result_bytes) as usize), setting, show)?;
    let among = measure(Work::Wire(mul.bytes_per_node as usize), setting, show)?;
    let (all, among) = (phase(&all, "wire")?, phase(&among, "wire")?);
    let matmul = phase(&measured[3][0], "online")?;
    let kernel = f64::from(matmul.nodes) * product_cpu_seconds(1024).ok_or("this system tells no seconds of CPU")?;
    let spdz = Setting { roster: Roster::spdz(3)?, ..setting.clone() };
    let lines = measure(Work::Matmul(512, 512, 512), &spdz, show)?;
    let product = phase(&lines, "online")?;
    let unchecked = product.wall_s - product.check_s.unwrap_or(f64::NAN);
    // By default `breast_cancer` has so many epochs; (5, 1) is planned to go on without one of its nodes.
    let (often, in_turns) = (setting.repeat.max(1) * 4, &[true, false]);
    let five = Setting { roster: Roster::shamir(5, 1)?, recovery: in_turns, repeat: often, ..setting.clone() };
    let training = measure(Work::Logistic(20), &five, show)?;
    let overhead = Overhead::of(&training).ok_or("both ways were measured")?;
    let row = |what: &str, found: f64, least: f64, most: &str| {
        format!("| {what} | {} | {} | {:.2} | {most} |\n", digits(found), digits(least), found / least)
    };
    let cpu = matmul.cpu_s.unwrap_or(f64::NAN);
    Ok([
        "\n## Beside what it cannot do without\n\n| what | s | of | ratio | wanted at most |\n|---|---|---|---|---|\n"
            .to_owned(),
        row(
            "10^6 integer products, Shamir (4, 1), wall online, to the links alone with as many bytes",
            mul.wall_s,
            all.wall_s,
            "3",
        ),
        row(
            "the same, to the links alone without the bytes of the sealed results",
            mul.wall_s,
            among.wall_s,
            "–",
        ),
        row(
            "matrix product 1024³, Shamir (4, 1), CPU of all nodes online, to one product by the kernel for each",
            cpu,
            kernel,
            "1.3",
        ),
        row(
            "matrix product 512³, SPDZ (3), wall online, to the same without its checks",
            product.wall_s,
            unchecked,
            "1.15",
        ),
        row(
            "logistic regression, 20 epochs, Shamir (5, 1), wall online, to the same without recovery",
            overhead.with_s,
            overhead.without_s,
            "1.10",
        ),
        "\nOnline, nodes send each other what they open, and then the reader their sealed results, of as many bytes as \
         the result has shares. The kernels alone, a product of 512³ to one of f64 by `matrixmultiply`, and 10^6 products to 10^6 xor: \
         `cargo bench --bench kernels`, `cargo bench --bench online`.\n"
            .to_owned(),
    ]
    .concat())
}

/// CPU of one matrix product by the kernel alone on all cores, the least of five.
fn product_cpu_seconds(side: usize) -> Option<f64> {
    let words =
        |seed: u64| Cpu.load((0..(side * side) as u64).map(|i| Fp61::reduce((i + seed) * 0x9e37_79b9)).collect());
    let (x, y, dims) = (words(1), words(2), Dims::Matmul { m: side, k: side, n: side });
    let once = |_| {
        let before = own_cpu_seconds()?;
        let product = Cpu.product(dims, &x, &y, None);
        let took = own_cpu_seconds()? - before;
        drop(product);
        Some(took)
    };
    (0..5).map(once).collect::<Option<Vec<_>>>()?.into_iter().reduce(f64::min)
}

/// A work of any size, with its name and the sizes to measure.
type Growing = (&'static str, fn(usize) -> Work, [usize; 4]);

/// How one quantity changes what a work takes.
fn scaling(path: &Path, setting: &Setting, show: &mut dyn FnMut(&Line)) -> Result<String, Fault> {
    let mut page = "\n## Growth\n\nExponents are slopes of straight lines through the logarithms, by least squares; \
                    wall and CPU are of the online phase. Predictions are for nodes that are machines of their own, \
                    with what is expanded ahead done; these share one machine. The last column is the peak of the \
                    largest node beyond an idle one, in words that the plan says are alive at once.\n"
        .to_owned();
    let (decades, sides) = ([1000, 10_000, 100_000, 1_000_000], [128, 256, 512, 1024]);
    let (epochs, batches) = ([1, 3, 10, 30], [1, 8, 64, 512]);
    let works: [Growing; 7] = [
        ("mul:N", Work::Mul, decades),
        ("fmul:N", Work::FixedMul, decades),
        ("cmp:N", Work::Compare, decades),
        ("relu:N", Work::Relu, decades),
        ("matmul:NxNxN", |n| Work::Matmul(n, n, n), sides),
        ("logreg:N", |n| Work::Logistic(n as u32), epochs),
        ("mlp:N", Work::Mlp, batches),
    ];
    let mut curves = Vec::new();
    for (name, work, sizes) in works {
        let mut lines = Vec::new();
        for n in sizes {
            lines.push(online(work(n), setting, show)?);
        }
        let at = |n: &usize| *n as f64;
        page += &growth(&format!("{name} on {}", setting.roster), "N", sizes.iter().map(at).collect(), &lines, true);
        if sizes == decades {
            curves.push(Curve { name: name.to_owned(), points: points(sizes.iter().map(at), &lines) });
        }
    }
    let file = picture(path, "size", ("N", "wall s, online"), true, &curves)?;
    writeln!(page, "\n![Wall time against N]({file})")?;

    let (mut nodes, mut lines) = (Vec::new(), Vec::new());
    for n in 3..=10 {
        let roster = Roster::shamir(n, 1)?;
        nodes.push(f64::from(n));
        lines.push(online(Work::Mul(100_000), &Setting { roster, ..setting.clone() }, show)?);
    }
    page += &growth("mul:100000 on Shamir (n, 1)", "nodes", nodes.clone(), &lines, true);
    let curve = Curve { name: "mul:100000".to_owned(), points: points(nodes.into_iter(), &lines) };
    let file = picture(path, "nodes", ("nodes", "wall s, online"), true, &[curve])?;
    writeln!(page, "\n![Wall time against nodes]({file})")?;

    let (delays, mut lines) = (vec![0.0, 5.0, 10.0, 20.0, 50.0, 100.0], Vec::new());
    for ms in &delays {
        lines.push(online(Work::Relu(10_000), &setting.shaped(*ms, 1000.0), show)?);
    }
    page +=
        "\nEach message between nodes delayed by the latency (one way), each node's uplink limited to 1000 Mbit/s:\n";
    page += &growth(&format!("relu:10000 on {}", setting.roster), "latency ms", delays.clone(), &lines, false);
    let far = setting.shaped(10.0, 100.0);
    page += &format!("\nWith 10 ms and 100 Mbit/s, on {}:\n\n", setting.roster);
    page += "| work | wall s | predicted s | predicted / measured | MB sent per node | rounds |\n|---|---|---|---|---|---|\n";
    for work in [
        Work::Mul(1_000_000),
        Work::Relu(100_000),
        Work::Compare(100_000),
        Work::Matmul(512, 512, 512),
        Work::Logistic(10),
        Work::Mlp(128),
    ] {
        let line = online(work, &far, show)?;
        let (wall, predicted) = (digits(line.wall_s), digits(line.predicted_wall_s));
        let (ratio, sent) = (line.predicted_wall_s / line.wall_s, digits(line.bytes_per_node as f64 / 1e6));
        writeln!(page, "| {work} | {wall} | {predicted} | {ratio:.2} | {sent} | {} |", line.rounds)?;
    }
    let predicted = |ms: &f64, line: &Line| (*ms, line.predicted_wall_s);
    let curves = [
        Curve { name: "measured".to_owned(), points: points(delays.iter().copied(), &lines) },
        Curve {
            name: "predicted".to_owned(),
            points: delays.iter().zip(&lines).map(|(d, l)| predicted(d, l)).collect(),
        },
    ];
    let file = picture(path, "latency", ("latency, ms", "wall s, online"), false, &curves)?;
    writeln!(page, "\n![Wall time against latency, measured and predicted]({file})")?;
    Ok(page)
}

fn online(work: Work, setting: &Setting, show: &mut dyn FnMut(&Line)) -> Result<Line, Fault> {
    phase(&measure(work, setting, show)?, "online").cloned()
}

fn points(x: impl Iterator<Item = f64>, lines: &[Line]) -> Vec<(f64, f64)> {
    x.zip(lines.iter().map(|line| line.wall_s)).collect()
}

/// A table, with a last row of exponents where all values are positive.
fn growth(caption: &str, of: &str, at: Vec<f64>, lines: &[Line], exponents: bool) -> String {
    let mut page = format!(
        "\n{caption}:\n\n| {of} | wall s | predicted s | predicted / measured | CPU s | MB sent per node | rounds | peak MB | over idle, to live |\n|---|---|---|---|---|---|---|---|---|\n"
    );
    let columns: [fn(&Line) -> Option<f64>; 4] = [
        |line| Some(line.wall_s),
        |line| line.cpu_s,
        |line| Some(line.bytes_per_node as f64 / 1e6),
        |line| line.peak_mb,
    ];
    let shown = |value: Option<f64>| value.map_or("–".to_owned(), digits);
    for (x, line) in at.iter().zip(lines) {
        let [wall, cpu, sent, peak] = columns.map(|column| shown(column(line)));
        let predicted = digits(line.predicted_wall_s);
        let ratio = line.predicted_wall_s / line.wall_s;
        page += &format!(
            "| {x} | {wall} | {predicted} | {ratio:.2} | {cpu} | {sent} | {} | {peak} | {} |\n",
            line.rounds,
            shown(over_live(line))
        );
    }
    if exponents {
        let [wall, cpu, sent, peak] = columns.map(|column| {
            let values: Vec<_> = at.iter().copied().zip(lines.iter().filter_map(column)).collect();
            exponent(&values).map_or("–".to_owned(), |slope| format!("{slope:.2}"))
        });
        page += &format!("| exponent | {wall} | – | – | {cpu} | {sent} | – | {peak} | – |\n");
    }
    page
}

/// What the largest node took beyond an idle one, in words alive at once.
fn over_live(line: &Line) -> Option<f64> {
    Some((line.peak_mb? - line.idle_mb?) / line.live_mb).filter(|ratio| ratio.is_finite())
}

/// The slope of log y against log x by least squares; none without two points
/// or with one that is not positive.
fn exponent(values: &[(f64, f64)]) -> Option<f64> {
    if values.len() < 2 || values.iter().any(|(x, y)| *x <= 0.0 || *y <= 0.0) {
        return None;
    }
    let logs: Vec<(f64, f64)> = values.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let n = logs.len() as f64;
    let (mx, my) = (logs.iter().map(|l| l.0).sum::<f64>() / n, logs.iter().map(|l| l.1).sum::<f64>() / n);
    let over: f64 = logs.iter().map(|(x, y)| (x - mx) * (y - my)).sum();
    let under: f64 = logs.iter().map(|(x, _)| (x - mx).powi(2)).sum();
    (under > 0.0).then(|| over / under)
}

/// Draws beside the page; gives the file's name.
fn picture(page: &Path, what: &str, axes: (&str, &str), logarithmic: bool, curves: &[Curve]) -> Result<String, Fault> {
    let stem = page.file_stem().map_or("performance".into(), |stem| stem.to_string_lossy());
    let file = format!("{stem}_{what}.svg");
    draw(&page.with_file_name(&file), axes, logarithmic, curves)?;
    Ok(file)
}

fn phase<'a>(lines: &'a [Line], name: &str) -> Result<&'a Line, Fault> {
    lines.iter().find(|line| line.phase == name).ok_or_else(|| format!("the phase {name} was not measured").into())
}

/// Three digits that matter.
fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        ..1e-2 => format!("{value:.1e}"),
        ..1.0 => format!("{value:.3}").trim_end_matches('0').to_owned(),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_slopes() {
        let powers: Vec<(f64, f64)> = [1.0, 10.0, 100.0].iter().map(|x: &f64| (*x, 3.0 * x.powf(1.5))).collect();
        assert!((exponent(&powers).unwrap() - 1.5).abs() < 1e-12);
        assert_eq!(exponent(&powers[..1]), None);
        assert_eq!(exponent(&[(1.0, 0.0), (2.0, 1.0)]), None);
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0, 0.00123, 0.25, 1.0, 12.34, 123.4].map(digits);
        assert_eq!(shown, ["0", "1.2e-3", "0.25", "1.00", "12.3", "123"]);
    }
}
