mod absent;
mod ahead;
mod attacks;
mod attempts;
mod cheat;
mod checkpoint;
mod cost;
mod ideal;
mod king;
mod moving;
mod packed;
#[cfg(feature = "gpu")]
mod survivor;
mod world;
