mod attacks;
mod cheat;
mod cost;
mod ideal;
#[cfg(feature = "gpu")]
mod survivor;
mod world;
