package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"

	"sigs.k8s.io/aws-encryption-provider/internal/yamlwords"
)

// maxFile bounds a file. One with a hundred keys has some 30 kB.
const maxFile = 1 << 20

// parse returns the one document of a file; nil where there is none to look at.
func (d *decoder) parse(data []byte) *yaml.Node {
	if len(data) > maxFile {
		d.add(0, "", fmt.Sprintf("is longer than %d bytes (1 MiB)", maxFile))
		return nil
	}
	d.last = len(yamlwords.Lines(data))
	if m, found := yamlwords.Characters(data); found {
		d.notYAML(m)
		return nil
	}
	roots, err := rootsOf(data)
	switch {
	case err != nil:
		d.notYAML(yamlwords.Explain(data, err, func(beginning []byte) error {
			_, err := rootsOf(beginning)
			return err
		}))
		return nil
	case len(roots) == 0 || len(roots) == 1 && roots[0].ShortTag() == "!!null":
		d.add(0, "", "is empty: want apiVersion, kind and providers")
		return nil
	case len(roots) > 1:
		d.add(roots[1].Line, "", "a second YAML document begins here: want one")
		delete(d.broken, "") // the first one is looked at
	}
	return roots[0]
}

// rootsOf returns the roots of the documents of a text.
func rootsOf(data []byte) ([]*yaml.Node, error) {
	var roots []*yaml.Node
	parser := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var document yaml.Node
		err := parser.Decode(&document)
		if errors.Is(err, io.EOF) {
			return roots, nil
		}
		if err != nil {
			return nil, err
		}
		roots = append(roots, document.Content[0])
	}
}

func (d *decoder) notYAML(m yamlwords.Mistake) { d.add(m.Line, "", "is not YAML: "+m.Text) }
