mod attacks;
mod cheat;
mod ideal;
mod world;
