package daemon

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

func TestShutdownAmidAReloadLeavesNoSocket(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	key := createKey(t, kms)
	for i := range 30 {
		dir := testkit.Directory(t)
		p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, key)}}
		timing := shortTiming()
		timing.settle = time.Millisecond
		f := runFiled(t, filing{dir: dir, time: timing}, fileText("", p))
		f.ready()
		q := providerText{name: "other", listen: dir + "/sub/other", keys: []string{keyText(kms, key)}}
		f.write(fileText("", p, q))
		time.Sleep(time.Duration(i) * 500 * time.Microsecond) // a different moment each time
		f.shutdown()
		for _, path := range []string{p.listen, q.listen, lockFile(p.listen), lockFile(q.listen)} {
			if exists(path) {
				t.Fatalf("round %d: %s outlives the process", i, filepath.Base(path))
			}
		}
	}
}

func TestShutdownGivesUpAReloadThatHangs(t *testing.T) {
	t.Parallel()
	well, ill := kmstest.Start(t), kmstest.Start(t)
	a, h := createKey(t, well), createKey(t, ill)
	ill.Inject(kmsemulator.Fault{Kind: kmsemulator.Hang})
	dir := testkit.Directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(well, a)}}
	f := runFiled(t, filing{dir: dir}, fileText("kmsTimeout: 10m\n", p))
	f.ready()
	p.keys = []string{keyText(ill, h), keyText(well, a)}
	f.write(fileText("kmsTimeout: 10m\n", p))
	testkit.Until(t, "the new key is asked", func() bool { return ill.Calls("Encrypt") > 0 })
	newCaller(t, p.listen).keyID()
	f.stopped(context.Background(), testkit.Patience/2)
	if f.log.Has("not reloaded") {
		t.Errorf("the end of the process is told as a failure:\n%s", f.log)
	}
}
