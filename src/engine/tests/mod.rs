mod attacks;
mod cheat;
mod cost;
mod ideal;
mod world;
