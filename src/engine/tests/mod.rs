mod absent;
mod attacks;
mod cheat;
mod cost;
mod ideal;
mod packed;
#[cfg(feature = "gpu")]
mod survivor;
mod world;
