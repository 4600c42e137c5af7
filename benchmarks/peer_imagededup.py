"""Run imagededup in an environment of its own, for benchmarks.peers.

Usage:
  python peer_imagededup.py PHash|CNN IMAGES FOUND     # files of a folder → JSON
  python peer_imagededup.py evaluate TRUTH FOUND       # two of these files → figures, to stdout

A file holds the duplicates of each image: {"a.jpg": ["b.jpg"], "b.jpg": ["a.jpg"]}. The exit status
is 3 if the weights of a network can't be downloaded.
"""

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    what, source, found = sys.argv[1:]
    if what == "evaluate":
        from imagededup.evaluation import evaluate

        both = (json.loads(Path(file).read_text()) for file in (source, found))
        figures = evaluate(*both)
        names = ("precision", "recall", "map", "ndcg", "jaccard")
        # Of precision and recall, the last value is that of the duplicates.
        values = (figures[name][-1] if figures[name].ndim else figures[name] for name in names)
        print(json.dumps(dict(zip(names, map(float, values), strict=True))))
    else:
        from imagededup import methods

        try:
            peer = getattr(methods, what)(verbose=False)
        except OSError as error:
            print(error, file=sys.stderr)
            sys.exit(3)
        Path(found).write_text(json.dumps(peer.find_duplicates(source)))
