//! Things that are had, found, lost and given: word problems with their totals.

use super::World;
use super::facts::Attribute;
use crate::draw;
use peftbench_spec::seed::Stream;

/// What changes the number of things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many more.
    Found(usize),
    /// So many fewer.
    Lost(usize),
    /// So many given to somebody else.
    Gave(usize),
    /// Twice as many.
    Doubled,
}

/// Somebody's things, from a first number through some steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem<'w> {
    pub(crate) who: &'w str,
    pub(crate) other: &'w str,
    pub(crate) thing: &'w str,
    pub(crate) start: usize,
    pub(crate) steps: Vec<Step>,
}

/// How hard a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Steps.
    pub(crate) steps: usize,
    /// No number in it is greater.
    pub(crate) most: usize,
    /// Whether a step may double.
    pub(crate) doubling: bool,
}

impl<'w> Problem<'w> {
    /// Draws a problem within `bounds`, in which no total falls below 0 or rises above the most.
    pub(crate) fn draw(world: &'w World, draws: &mut Stream, bounds: Bounds) -> Self {
        let (who, other) = world.draw_two_creatures(draws);
        let thing = world.draw_value(draws, Attribute::Tool);
        let start = 1 + draw::below(draws, bounds.most - 1);
        let mut total = start;
        let mut steps = Vec::with_capacity(bounds.steps);
        for _ in 0..bounds.steps {
            let step = draw_step(draws, total, bounds);
            total = step.apply(total);
            steps.push(step);
        }
        Self { who, other, thing, start, steps }
    }

    /// The totals after each step.
    pub(crate) fn totals(&self) -> Vec<usize> {
        let step = |total: &mut usize, step: &Step| {
            *total = step.apply(*total);
            Some(*total)
        };
        self.steps.iter().scan(self.start, step).collect()
    }

    /// The total at the end.
    pub(crate) fn answer(&self) -> usize {
        self.totals().last().copied().unwrap_or(self.start)
    }

    /// What it began with.
    pub(crate) fn opening(&self) -> String {
        format!("the {} had {} {}.", self.who, self.start, self.thing)
    }

    /// What happened in a step, without a full stop.
    pub(crate) fn event(&self, step: Step) -> String {
        match step {
            Step::Found(n) => format!("it found {n} more"),
            Step::Lost(n) => format!("it lost {n}"),
            Step::Gave(n) => format!("it gave {n} to the {}", self.other),
            Step::Doubled => "it then had twice as many".to_owned(),
        }
    }

    /// The calculation of every step, such as `7 + 5 = 12`.
    pub(crate) fn equations(&self) -> Vec<String> {
        let mut total = self.start;
        let equation = |step: &Step| {
            let before = total;
            total = step.apply(total);
            match step {
                Step::Found(n) => format!("{before} + {n} = {total}"),
                Step::Lost(n) | Step::Gave(n) => format!("{before} - {n} = {total}"),
                Step::Doubled => format!("{before} * 2 = {total}"),
            }
        };
        self.steps.iter().map(equation).collect()
    }
}

impl Step {
    fn apply(self, total: usize) -> usize {
        match self {
            Self::Found(n) => total + n,
            Self::Lost(n) | Self::Gave(n) => total - n,
            Self::Doubled => total * 2,
        }
    }
}

/// A step that stays within the bounds: up where little is had, down where much is.
fn draw_step(draws: &mut Stream, total: usize, bounds: Bounds) -> Step {
    let room = bounds.most - total;
    if bounds.doubling && total > 0 && total <= room && draw::chance(draws, 1, 4) {
        return Step::Doubled;
    }
    let up = total == 0 || (room > 0 && draw::chance(draws, 1, 2));
    match up {
        true => Step::Found(1 + draw::below(draws, room)),
        false if draw::chance(draws, 1, 2) => Step::Lost(1 + draw::below(draws, total)),
        false => Step::Gave(1 + draw::below(draws, total)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;

    #[test]
    fn equations_are_right_and_within_bounds() {
        let world = World::new(0);
        let mut draws = stream(0, "t");
        for steps in 1..5 {
            for _ in 0..300 {
                let problem = Problem::draw(&world, &mut draws, Bounds { steps, most: 20, doubling: steps > 1 });
                let mut total = problem.start;
                for equation in problem.equations() {
                    let parts: Vec<&str> = equation.split(' ').collect();
                    let [a, sign, b, "=", result] = parts[..] else { panic!("{equation}") };
                    let [a, b, result] = [a, b, result].map(|n| n.parse::<usize>().unwrap());
                    let right = match sign {
                        "+" => a + b,
                        "-" => a - b,
                        _ => a * b,
                    };
                    assert!(a == total && result == right && result <= 20, "{equation}");
                    total = result;
                }
                assert_eq!((total, problem.totals().len()), (problem.answer(), steps));
            }
        }
    }
}
