//! Word problems.

use super::super::World;
use super::super::sums::{Bounds, Problem};
use super::{Counts, Result, SplitRows, draw_splits};
use crate::draw;
use crate::tasks::math::ProblemRow;
use peftbench_spec::seed::Stream;

/// Word problems with their calculation and answer. Difficulty 0: one step with numbers up to 10; 2: two or three steps, which may double,
/// with numbers up to 20; 3: the same up to 30; 1: three in ten are as with 3, the others as with 0.
pub(crate) fn problems(world: &World, counts: Counts, difficulty: u8) -> Result<SplitRows<ProblemRow>> {
    draw_splits(world, "problems", counts, |draws, id, _| {
        let bounds = bounds(draws, difficulty);
        let problem = Problem::draw(world, draws, bounds);
        let events: String = problem.steps.iter().map(|&step| format!(" {}.", problem.event(step))).collect();
        let asked = format!("how many {} does the {} have now?", problem.thing, problem.who);
        let instruction = format!("{}{events} {asked}", problem.opening());
        let answer = problem.answer().to_string();
        let solution = format!("{}. the answer is {answer}.", problem.equations().join(", "));
        (instruction.clone(), ProblemRow { id, instruction, solution, answer })
    })
}

fn bounds(draws: &mut Stream, difficulty: u8) -> Bounds {
    match difficulty {
        0 => Bounds { steps: 1, most: 10, doubling: false },
        1 => {
            let as_hard_as = if draw::chance(draws, 3, 10) { 3 } else { 0 };
            bounds(draws, as_hard_as)
        }
        _ => Bounds { steps: 2 + draw::below(draws, 2), most: if difficulty == 2 { 20 } else { 30 }, doubling: true },
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::COUNTS;
    use super::*;

    #[test]
    fn a_solution_ends_with_its_answer() {
        let world = World::new(0);
        for difficulty in 0..=super::super::MOST_DIFFICULT {
            for row in problems(&world, COUNTS, difficulty).unwrap().test {
                assert!(row.solution.ends_with(&format!("= {0}. the answer is {0}.", row.answer)), "{row:?}");
                assert!(row.instruction.ends_with("have now?"));
            }
        }
    }
}
