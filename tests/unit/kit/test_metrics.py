"""What Prometheus scrapes."""

from aios_kit.metrics import Metrics


def test_calls_are_counted_by_operation_and_outcome() -> None:
    metrics = Metrics()
    metrics.calls.labels("memory.add", "ok").inc()
    metrics.calls.labels("memory.add", "ok").inc()
    metrics.calls.labels("memory.add", "internal").inc()
    text = metrics.text().decode()
    assert 'aios_calls_total{operation="memory.add",outcome="ok"} 2.0' in text
    assert 'aios_calls_total{operation="memory.add",outcome="internal"} 1.0' in text


def test_durations_have_buckets_from_a_millisecond_to_minutes() -> None:
    metrics = Metrics()
    metrics.seconds.labels("memory.add").observe(0.003)
    text = metrics.text().decode()
    assert 'aios_call_seconds_bucket{le="0.0025",operation="memory.add"} 0.0' in text
    assert 'aios_call_seconds_bucket{le="0.005",operation="memory.add"} 1.0' in text
    assert 'le="300.0"' in text


def test_two_services_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.calls.labels("memory.add", "ok").inc()
    assert b"memory.add" not in other.text()


def test_what_is_counted_elsewhere_is_added_up_before_each_look() -> None:
    metrics = Metrics()
    metrics.before_shown(lambda: metrics.calls.labels("memory.add", "ok").inc(5))
    assert 'outcome="ok"} 5.0' in metrics.text().decode()
    assert 'outcome="ok"} 10.0' in metrics.text().decode()
