//! Word problems.

use super::super::World;
use super::super::sums::{Bounds, Problem};
use super::{Counts, Result, SplitRows, draw_splits};
use crate::draw;
use crate::tasks::math::ProblemRow;

/// Word problems with their calculation and answer. Difficulty 0: one step with numbers up to 10; 1: up to two steps, up to 20; 2: two
/// or three steps, which may double; 3: the same with numbers up to 30.
pub(crate) fn problems(world: &World, counts: Counts, difficulty: u8) -> Result<SplitRows<ProblemRow>> {
    draw_splits(world, "problems", counts, |draws, id, _| {
        let (fewest, most_steps, most) = [(1, 1, 10), (1, 2, 20), (2, 3, 20), (2, 3, 30)][usize::from(difficulty.min(3))];
        let steps = fewest + draw::below(draws, most_steps - fewest + 1);
        let problem = Problem::draw(world, draws, Bounds { steps, most, doubling: difficulty > 1 });
        let events: String = problem.steps.iter().map(|&step| format!(" {}.", problem.event(step))).collect();
        let asked = format!("how many {} does the {} have now?", problem.thing, problem.who);
        let instruction = format!("{}{events} {asked}", problem.opening());
        let answer = problem.answer().to_string();
        let solution = format!("{}. the answer is {answer}.", problem.equations().join(", "));
        (instruction.clone(), ProblemRow { id, instruction, solution, answer })
    })
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
