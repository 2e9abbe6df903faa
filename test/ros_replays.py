"""Recorded bags played into a node."""

from __future__ import annotations

from mmcl_ros.bagfile import Bag
from mmcl_ros.play_bag import Listener, drawn_in, play, truth_messages


def replay(bench, model, path, truths, modality, **settings):
    """Play a bag into a node; what came back."""
    listener = Listener()
    listener.listen(bench.client)
    with Bag(path) as bag:
        topics = {"rgb_topic": bag.topics.rgb, "depth_topic": bag.topics.depth}
        topics |= {f"{name}_info_topic": topic for name, topic in bag.topics.infos.items()}
        topics |= {"detections_topic": bag.topics.detections} if bag.topics.detections else {}
        settings = {"roi_source": "detections", "policy": "every", **settings, **topics}
        node = bench.recognizer(model, modality=modality, **settings)
        bench.wait(lambda: node._answers.get_subscription_count(), "the listener")
        requests = [] if bag.topics.detections else truth_messages(truths, drawn_in(bag))
        count = play(bench.client, bag, rate=5.0, requests=requests, sent=listener.sent)
    bench.wait(lambda: len(listener.answers) == len(truths), f"{len(truths)} answers", 60)
    return listener, count


def answers(listener, truths):
    """What came back, box by box."""
    return [one for truth in truths for one in listener.answers[truth.request.stamp].recognitions]
