import sys, time
from simulation.plan import Plan
from simulation.world import World
from simulation.observer import Broken
import logging; logging.disable(logging.CRITICAL)
size = {}
seeds = range(int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 2 else [int(sys.argv[1])]
for a in sys.argv[3:]:
    k, v = a.split("="); size[k] = float(v) if k == "seconds" else int(v)
for seed in seeds:
    t = time.process_time()
    w = World(Plan.draw(seed, **size))
    try:
        w.run()
        r = "ok"
    except BaseException as e:
        r = f"{type(e).__name__} {e}"
        if not isinstance(e, Broken): 
            import traceback; traceback.print_exc()
        elif e.__cause__ is not None:
            import traceback; traceback.print_exception(e.__cause__)
    dt = time.process_time() - t
    print(seed, r[:600], f"{w.loop.time()-1000:.0f} s simulated, {dt:.1f} CPU s, {(w.loop.time()-1000)/dt:.0f} x, {w.loop.steps} steps, {len(w.trace)} lines", w.digest()[:10], flush=True)
    open("/tmp/trace.txt","w").write("\n".join(w.trace))
    if len(seeds) == 1 and r != "ok":
        e = w.observer
        print(e._outages, w.plan.lease_seconds)
