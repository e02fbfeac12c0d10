from hbt_ray.utils import activity
from hbt_ray.utils.activity import Phase, begin_step, enter_phase, in_phase


def test_in_phase_returns_to_the_phase_before_it():
    enter_phase(Phase.COMPUTE)
    with in_phase(Phase.ALL_REDUCE):
        assert activity.current.phase == Phase.ALL_REDUCE
    assert activity.current.phase == Phase.COMPUTE


def test_begin_step_restarts_the_clock_only_for_another_step():
    begin_step(1)
    activity.current.step_began_s = began_s = 0.0
    begin_step(1)
    assert activity.current.step_began_s == began_s
    begin_step(2)
    assert activity.current.step_began_s > began_s
