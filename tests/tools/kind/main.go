// Command kind is what the tests need of the world of containers, in one binary: its first argument says which part.
package main

import (
	"fmt"
	"os"

	"github.com/rhysd/actionlint"
	"sigs.k8s.io/kind/cmd/kind/app"
)

const parts = "kind, actionlint, image or context"

func main() {
	if len(os.Args) < 2 {
		fail("say which part to run: " + parts)
	}
	part, arguments := os.Args[1], os.Args[2:]
	os.Args = append([]string{part}, arguments...)
	switch part {
	case "kind":
		app.Main()
	case "actionlint":
		command := actionlint.Command{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
		os.Exit(command.Main(os.Args))
	case "image":
		write(image(arguments))
	case "context":
		write(files(arguments))
	default:
		fail(fmt.Sprintf("unknown part %q: %s", part, parts))
	}
}

// The result is JSON on the standard output.
func write(result []byte, err error) {
	if err != nil {
		fail(err.Error())
	}
	fmt.Println(string(result))
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, "kind:", why)
	os.Exit(2)
}
