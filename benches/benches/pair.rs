//! The cost of an allocation and its free, beside the C library's.

use criterion::{Criterion, criterion_group, criterion_main};
use drystone_benches::{Drystone, Malloc, OneSize, RandomSizes, Sizes};

fn one_size(c: &mut Criterion) {
    for size in [512, 65_536, 1 << 20, 64 << 20] {
        let mut group = c.benchmark_group(format!("one size, {size} B"));
        let (ours, malloc) = (OneSize::new(Drystone::new(), size), OneSize::new(Malloc, size));
        group.bench_function("drystone", |b| b.iter(|| ours.pair()));
        group.bench_function("malloc", |b| b.iter(|| malloc.pair()));
    }
}

fn random_sizes(c: &mut Criterion) {
    for (sizes, what, live) in [
        (Sizes::SMALL, "random sizes", 1_000),
        (Sizes::SMALL, "random sizes", 100_000),
        (Sizes::LARGE, "random large sizes", 100),
    ] {
        let mut group = c.benchmark_group(format!("{what}, {live} live"));
        let mut ours = RandomSizes::new(Drystone::new(), sizes, live);
        group.bench_function("drystone", |b| b.iter(|| ours.pair()));
        drop(ours);
        let mut malloc = RandomSizes::new(Malloc, sizes, live);
        group.bench_function("malloc", |b| b.iter(|| malloc.pair()));
    }
}

criterion_group! {
    name = pairs;
    config = Criterion::default().without_plots();
    targets = one_size, random_sizes
}
criterion_main!(pairs);
